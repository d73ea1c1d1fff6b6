"""The responses API over chats: requests become chats, deltas of answers become output items."""
