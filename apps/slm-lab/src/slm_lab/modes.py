"""The training modes of slm-train, in the order in which they are reported."""

MODES = ("baseline", "lora", "qlora", "butterfly", "butterfly_block")
PEER_MODES = ("oft",)  # methods of PEFT to compare with
BUTTERFLY_MODES = ("butterfly", "butterfly_block")

# Flags that slm-train accepts only with some modes, and refuses with the others.
MODES_WITH_FLAG = {
    "muon": {"baseline"},
    "butterfly_block_size": {"butterfly_block"},
    "oft_block_size": {"oft"},
    "load_in_4bit": {"lora", "qlora", "butterfly", "butterfly_block", "oft"},
}
