"""The playground in chat mode, in a browser."""

import json
from pathlib import Path
from typing import Any

import pytest

from slm_data import Conversation, SourceOptions, load_corpus
from slm_testing.serve.browser import Browser, needs_browser
from slm_testing.serve.stub_server import StubServer
from slm_testing.serve.waiting import wait_until

FINISHED = "document.querySelector('#chat-status').innerText === 'Finished.'"
QUESTIONS, ANSWERS = ".question .text", ".answer .text"
ADAPTER, BASE = "stories-lora", "sample"
pytestmark = needs_browser


def say(chat: Browser, *messages: str) -> None:
    """Send messages, each after the answer to the previous one."""
    for message in messages:
        chat.send(message)
        chat.wait(FINISHED)


def instruct(chat: Browser, system_prompt: str) -> None:
    """Enter a system prompt."""
    chat.click("#system summary")
    chat.type("#system-prompt", system_prompt)


def answer(model: str, number: int, message: str) -> str:
    """Return the stub's answer to a list of ``number`` messages."""
    return f"{model} got <b>{number} {message}</b> 雪"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def click_action(chat: Browser, turn: str, label: str, position: int = 0) -> None:
    chat(f"[...document.querySelectorAll('{turn}')][{position}].querySelectorAll('.actions-row button')"
         f".forEach(b => b.textContent === '{label}' && b.click())")  # fmt: skip


def test_history_and_system_prompt_are_sent_and_answers_are_shown_as_text(chat: Browser, stub: StubServer) -> None:
    instruct(chat, "Be brief.")
    chat.set("seed", "5")
    chat.set("temperature", "0.4")
    chat.set("max_new_tokens", "50")
    say(chat, "Hello", "And <i>then</i>?")
    first, second = answer(ADAPTER, 2, "Hello"), answer(ADAPTER, 4, "And <i>then</i>?")
    assert chat.texts(ANSWERS) == [first, second]
    assert chat.texts(QUESTIONS) == ["Hello", "And <i>then</i>?"]
    system = {"role": "system", "content": "Be brief."}
    body = stub.bodies[1]
    assert body["messages"] == [system, user("Hello"), assistant(first), user("And <i>then</i>?")]
    expected: dict[str, Any] = {"model": ADAPTER, "stream": True, "seed": 5, "temperature": 0.4, "max_tokens": 50}
    assert body == body | expected
    shown = dict(entry.split("\n") for entry in chat.texts(".answer:first-child dl div"))
    assert (shown["tokens"], shown["finish reason"], shown["seed"]) == ("9", "stop", "5")
    assert chat.console_errors == []


def test_enter_sends_and_shift_enter_starts_a_line(chat: Browser, stub: StubServer) -> None:
    chat.type("[name=message]", "one")
    chat.press("Enter", shift=True)
    chat.type("[name=message]", "two")
    assert stub.bodies == []
    chat.press("Enter")
    chat.wait(FINISHED)
    assert stub.bodies[0]["messages"] == [user("one\ntwo")]
    assert chat("document.activeElement.name") == "message"
    assert chat("document.activeElement.value") == ""


def test_an_empty_message_is_rejected_without_a_request(chat: Browser, stub: StubServer) -> None:
    chat.send(" \n")
    assert chat.text("#chat-status") == "Write a message first."
    assert stub.bodies == []


def test_an_edited_message_replaces_the_turns_from_there_on(chat: Browser, stub: StubServer) -> None:
    say(chat, "one", "two", "three")
    click_action(chat, ".question", "Edit", 1)
    chat("document.querySelector('.editor textarea').value = 'changed'")
    chat.click(".editor .primary")
    chat.wait(FINISHED)
    assert chat.texts(QUESTIONS) == ["one", "changed"]
    assert stub.bodies[-1]["messages"] == [user("one"), assistant(answer(ADAPTER, 1, "one")), user("changed")]
    chat.click("#undo")
    assert chat.texts(QUESTIONS) == ["one", "two", "three"]


def test_escape_leaves_the_editor_without_a_change(chat: Browser, stub: StubServer) -> None:
    say(chat, "one")
    click_action(chat, ".question", "Edit")
    chat.press("Escape")
    assert chat("document.querySelector('.editor')") is None
    assert chat("document.activeElement.textContent") == "Edit"
    assert len(stub.bodies) == 1


def test_regenerating_answers_the_same_messages_again_and_drops_later_turns(chat: Browser, stub: StubServer) -> None:
    say(chat, "one", "two")
    click_action(chat, ".answer", "Regenerate")
    chat.wait(FINISHED)
    assert chat.texts(QUESTIONS) == ["one"]
    assert stub.bodies[2]["messages"] == stub.bodies[0]["messages"]
    assert stub.bodies[2]["seed"] != stub.bodies[0]["seed"]


def test_a_corrected_answer_is_what_the_model_sees_next(chat: Browser, stub: StubServer) -> None:
    say(chat, "one", "two")
    click_action(chat, ".answer", "Edit")
    chat("document.querySelector('.editor textarea').value = 'corrected'")
    chat.click(".editor .primary")
    say(chat, "three")
    contents = [message["content"] for message in stub.bodies[-1]["messages"]]
    assert contents == ["one", "corrected", "two", answer(ADAPTER, 3, "two"), "three"]


def test_stop_keeps_the_partial_answer_and_its_turn(chat: Browser, stub: StubServer) -> None:
    chat.send("endless")
    chat.wait("document.querySelector('.answer .text')?.innerText.includes('more more')")
    chat.press("Escape")
    chat.wait("document.querySelector('#chat-status').innerText === 'Stopped.'")
    assert stub.client_disconnected.wait(5)
    partial = chat.text(ANSWERS)
    assert partial.startswith("more more")
    say(chat, "next")
    assert stub.bodies[-1]["messages"] == [user("endless"), assistant(partial), user("next")]


def test_an_answer_that_was_cut_is_continued(chat: Browser, stub: StubServer) -> None:
    chat.send("endless")
    chat.wait("document.querySelector('.answer .text')?.innerText.includes('more more')")
    chat.click("#stop-chat")
    chat.wait("document.querySelector('#chat-status').innerText === 'Stopped.'")
    partial = chat.text(ANSWERS)
    click_action(chat, ".answer", "Continue")
    chat.wait(FINISHED)
    assert stub.bodies[-1]["messages"] == [user("endless"), assistant(partial)]
    assert (stub.bodies[-1]["continue_final_message"], stub.bodies[-1]["add_generation_prompt"]) == (True, False)
    assert chat.text(ANSWERS) == f"{partial} {answer(ADAPTER, 2, partial)}"
    assert "Continue" not in chat.text(".answer .actions-row")  # the model has ended its turn


@pytest.mark.parametrize("message", ["status 500", "empty"])
def test_a_turn_without_an_answer_is_not_sent_and_says_so(chat: Browser, stub: StubServer, message: str) -> None:
    chat.send(message)
    chat.wait("document.querySelector('#stop-chat').hidden && document.querySelector('.answer .hint').innerText")
    assert "left out" in chat.text(".answer .hint")
    say(chat, "next")
    assert stub.bodies[-1]["messages"] == [user("next")]


def test_the_conversation_survives_a_reload_until_it_is_cleared(chat: Browser, stub: StubServer) -> None:
    instruct(chat, "Be brief.")
    say(chat, "one", "two")
    chat.open(stub.address)
    chat.wait("document.querySelectorAll('.answer').length === 2")
    assert chat.texts(ANSWERS) == [answer(ADAPTER, 2, "one"), answer(ADAPTER, 4, "two")]
    assert chat("document.querySelector('#system-prompt').value") == "Be brief."
    chat.click("#clear-chat")
    assert chat.texts(QUESTIONS) == []
    chat.open(stub.address)
    chat.wait("document.querySelector('#turns .empty') !== null")
    assert chat.texts(QUESTIONS) == []
    say(chat, "three")
    assert [message["role"] for message in stub.bodies[-1]["messages"]] == ["system", "user"]


def test_a_cleared_conversation_can_be_restored(chat: Browser) -> None:
    say(chat, "one")
    chat.click("#clear-chat")
    chat.click("#undo")
    assert chat.texts(QUESTIONS) == ["one"]
    assert chat("document.querySelector('#undo').hidden")


def test_two_models_answer_each_with_its_own_history(chat: Browser, stub: StubServer) -> None:
    say(chat, "alone")
    chat.click("[name=compare]")
    say(chat, "one", "two")
    assert chat.texts(".answers:last-child h3") == ["stories-lora adapter of sample", "sample base"]
    for body in stub.bodies[-2:]:
        shared = [user("alone"), assistant(answer(ADAPTER, 1, "alone"))]
        assert body["messages"] == [*shared, user("one"), assistant(answer(body["model"], 3, "one")), user("two")]
    assert {body["model"] for body in stub.bodies[-2:]} == {ADAPTER, BASE}
    assert stub.bodies[-1]["seed"] == stub.bodies[-2]["seed"]


def export(chat: Browser, kind: str, folder: Path) -> Path:
    """Export the conversation and return the file."""
    chat.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    chat.click(f"[data-export={kind}]")
    wait_until(lambda: [path for path in folder.iterdir() if path.suffix != ".crdownload"], 5)
    return next(path for path in folder.iterdir() if path.suffix != ".crdownload")


def test_exported_training_data_is_read_by_slm_train(chat: Browser, tmp_path: Path) -> None:
    instruct(chat, "Be brief.")
    chat.click("[name=compare]")
    say(chat, "one", "two")
    path = export(chat, "training", tmp_path)
    assert path.suffix == ".jsonl"
    corpus = load_corpus(SourceOptions(train_file=[str(path)]))
    texts = []
    for conversation in (*corpus.train, *corpus.validation):
        assert isinstance(conversation, Conversation)
        texts.append([(message.role, message.content) for message in conversation.messages])
    assert sorted(texts, reverse=True) == [
        [
            ("system", "Be brief."),
            ("user", "one"),
            ("assistant", answer(model, 2, "one")),
            ("user", "two"),
            ("assistant", answer(model, 4, "two")),
        ]
        for model in (ADAPTER, BASE)
    ]


def test_a_conversation_is_exported_as_markdown_and_json(chat: Browser, tmp_path: Path) -> None:
    instruct(chat, "Be brief.")
    say(chat, "one")
    expected = f"## System\n\nBe brief.\n\n## User\n\none\n\n## Assistant ({ADAPTER})\n\n{answer(ADAPTER, 2, 'one')}\n"
    for kind in ("markdown", "json"):
        (tmp_path / kind).mkdir()
    assert export(chat, "markdown", tmp_path / "markdown").read_text() == expected
    exported = json.loads(export(chat, "json", tmp_path / "json").read_text())
    assert (exported["system"], exported["turns"][0]["user"]) == ("Be brief.", "one")
    assert exported["turns"][0]["answers"][0]["model"] == ADAPTER
    assert exported["settings"]["temperature"] == "0.8"


def test_there_is_nothing_to_export_without_an_answer(chat: Browser) -> None:
    chat.click("[data-export=json]")
    assert chat.text("#chat-status") == "There is no answered turn to export."


def test_an_answer_is_copied(chat: Browser, stub: StubServer) -> None:
    say(chat, "one")
    origin = stub.address.removesuffix("/behind/a/proxy/")
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    chat.call("Browser.grantPermissions", origin=origin, permissions=permissions)
    chat.call("Emulation.setFocusEmulationEnabled", enabled=True)  # the clipboard is only for a page with the focus
    click_action(chat, ".answer", "Copy")
    chat.wait("document.querySelector('.answer').innerText.includes('Copied')")
    assert chat("navigator.clipboard.readText()") == answer(ADAPTER, 1, "one")


def test_a_long_conversation_follows_the_answer(chat: Browser) -> None:
    chat.resize(390, 500, phone=True)
    say(chat, *"abcd")
    at_end = "document.documentElement.scrollHeight - innerHeight - scrollY < 2"
    chat.wait(at_end)
    box = chat("document.querySelector('#composer').getBoundingClientRect().toJSON()")
    assert box["bottom"] <= 500
    chat("scrollTo(0, 0)")
    chat.wait("scrollY === 0")
    assert chat("document.querySelector('#composer').getBoundingClientRect().bottom") <= 500
