"""The vocabulary of the built-in corpus: people, places, things, weather, numbers."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _split(
    "Wren Marit Tamsin Isla Odile Petra Sunniva Brisa Liv Maren Hesper Juniper Ottilie Kaia Elowen Freya "
    "Zinnia Linnet Morwenna Una Delphine Thea Sigrid Cleo Bettina Yara Rosalind Ingrid Poppy Merle"
)
BOYS = _split(
    "Corin Pasco Jory Tobin Rafe Leif Finnick Bram Denzil Ossian Kit Mungo Ivo Piran Hugo Eskil Ned "
    "Aldo Rowan Tycho Barnaby Luca Perrin Wilf Yannick Fergal Jasper Milo Oskar Teo"
)
ELDERS = _split(
    "Brannock Tolliver Pettigrew Quill Marrow Crake Dunlin Saltby Winnow Thrupp Oakum Teasel Larkin "
    "Fennimore Hobday Rudd Merriweather Bellamy Tarrow Selwick"
)

# (a woman's title, a man's title, what they do)
ROLES = (
    ("Keeper", "Keeper", "the lighthouse keeper"),
    ("Captain", "Captain", "the ferry captain"),
    ("Pilot", "Pilot", "the harbour pilot"),
    ("Doctor", "Doctor", "the ship's doctor"),
    ("Aunt", "Uncle", "the baker"),
    ("Granny", "Gaffer", "the oldest net mender on the quay"),
    ("Mistress", "Master", "the chart maker"),
    ("Mistress", "Master", "the schoolteacher"),
    ("Warden", "Warden", "the bell ringer"),
    ("Madam", "Mister", "the tinkerer"),
    ("Bosun", "Bosun", "the dockmaster"),
    ("Granny", "Gaffer", "the storm watcher"),
    ("Madam", "Mister", "the librarian"),
    ("Aunt", "Uncle", "the keeper of the tide tables"),
)

TRADES = (
    "sail maker",
    "oyster farmer",
    "lamplighter",
    "cooper",
    "rope maker",
    "fishmonger",
    "boat builder",
    "postmaster",
    "salt boiler",
    "button carver",
    "kelp gatherer",
    "lens grinder",
)
SHOPS = (
    "bakery",
    "sail loft",
    "customs house",
    "rope walk",
    "fish market",
    "clock shop",
    "pump room",
    "boat shed",
    "print shop",
    "candle works",
)
TRAITS = _split(
    "curious stubborn cheerful careful restless quiet bold dreamy impatient orderly talkative "
    "thoughtful clever shy merry earnest headstrong gentle inventive lively"
)
AGES = _split("eight nine ten eleven twelve thirteen")
TOWNS = (
    "Gullhaven",
    "Pellmouth",
    "Saltmere",
    "Thornwick",
    "Kettle Bay",
    "Low Lantern",
    "Brackwater",
    "Anchor Hythe",
    "Tidewell",
    "Nettlestone Quay",
    "Old Wharfing",
    "Murrow Sound",
)

# (where something is, the place alone)
PLACES = (
    ("on the old pier", "the old pier"),
    ("by the tide bell", "the tide bell"),
    ("in the rope loft", "the rope loft"),
    ("behind the ice house", "the ice house"),
    ("under the signal mast", "the signal mast"),
    ("on the market steps", "the market steps"),
    ("at the foot of the lighthouse", "the lighthouse"),
    ("among the lobster pots", "the lobster pots"),
    ("at the end of the breakwater", "the breakwater"),
    ("in the bell tower", "the bell tower"),
    ("behind the upturned dory", "the upturned dory"),
    ("between the salt sheds", "the salt sheds"),
    ("in the chapel porch", "the chapel porch"),
    ("beside the dry dock", "the dry dock"),
    ("near the town pump", "the town pump"),
    ("below the sea wall", "the sea wall"),
    ("in the net store", "the net store"),
    ("beside the cannon on the hill", "the cannon on the hill"),
)

# (noun, what it may be made of, what it is used for)
THINGS = (
    ("compass", ("brass", "copper", "silver"), "find north"),
    ("whistle", ("tin", "bone", "cedar"), "call the gulls"),
    ("spyglass", ("brass", "bamboo", "copper"), "watch the ships"),
    ("penknife", ("horn", "steel", "pearl"), "carve little boats"),
    ("lantern", ("copper", "tin", "iron"), "find the way home in the dark"),
    ("music box", ("walnut", "cherry-wood", "silver"), "send the baby next door to sleep"),
    ("flute", ("cedar", "bone", "reed"), "play sea songs"),
    ("notebook", ("leather", "canvas", "oilcloth"), "write down the names of ships"),
    ("hourglass", ("oak", "amber", "pewter"), "time the boiling of eggs"),
    ("ladle", ("oak", "pewter", "iron"), "stir the chowder"),
    ("magnet", ("iron", "horseshoe", "black"), "fish for lost nails"),
    ("needle case", ("ivory", "oak", "velvet"), "keep sail needles dry"),
    ("telescope", ("paper", "brass", "ebony"), "look at the moon"),
    ("hand bell", ("brass", "silver", "china"), "call everyone to supper"),
    ("rain gauge", ("glass", "tin", "copper"), "measure the rain"),
    ("mirror", ("pocket", "silver", "shell"), "send flashes across the bay"),
)
# each after "a" or "the"
MARKS = (
    "dent in one side",
    "star scratched on it",
    "loop of green thread tied round it",
    "tiny anchor cut into it",
    "burn the shape of a leaf",
    "drop of old candle wax on it",
)
PAUSES = (
    "empty the sand out of a boot",
    "eat a heel of bread",
    "watch the ferry come in",
    "tie a bootlace",
    "look at a dead jellyfish",
    "help a crab off its back",
    "count the masts in the harbour",
)
COLOURS = _split("red blue green yellow amber indigo scarlet violet orange white turquoise crimson")
GARMENTS = _split("coat oilskin jersey cloak jacket pullover")
FOODS = (
    ("apple", "apples"),
    ("pear", "pears"),
    ("plum", "plums"),
    ("herring", "herrings"),
    ("bun", "buns"),
    ("oyster", "oysters"),
    ("egg", "eggs"),
    ("ginger biscuit", "ginger biscuits"),
    ("honey cake", "honey cakes"),
    ("crab pie", "crab pies"),
    ("fig", "figs"),
    ("turnip", "turnips"),
)
SHIPS = (
    "Merry Kestrel",
    "Patient Anna",
    "Salt Wren",
    "Second Helping",
    "Silver Sprat",
    "Old Promise",
    "Northern Button",
    "Lucky Herring",
    "Grey Duchess",
    "Morning Pilot",
    "Hopeful Snail",
    "Winter Rose",
)

PET_NAMES = _split("Biscuit Barnacle Pickle Admiral Crumb Mustard Soot Button Kipper Thimble Pudding Sprat")
# (kind, how it spoke)
PET_KINDS = (
    ("one-legged gull", "squawked"),
    ("ginger cat", "miaowed"),
    ("small brown dog", "barked"),
    ("tame puffin", "croaked"),
    ("bald parrot", "whistled"),
    ("elderly goose", "honked"),
    ("sleepy sea otter", "chirped"),
    ("three-coloured kitten", "purred"),
)

# season: days on which a story may begin, and (the sky, its name, how it ends)
SEASONS = (
    (
        ("one spring morning", "on the day of the Net Blessing", "early one April"),
        (
            ("a thin drizzle blew in from the sea", "the drizzle", "the drizzle passed"),
            ("a stiff wind rattled the shutters", "the wind", "the wind dropped"),
            ("the sky was as clear as glass", "the sunshine", "the sun went down"),
        ),
    ),
    (
        ("one summer morning", "on the longest day of the year", "in the week of the regatta"),
        (
            ("the sun baked the cobbles", "the heat", "the heat eased"),
            ("a sea mist crept along the quay", "the mist", "the mist melted away"),
            ("the water lay as flat as a plate", "the calm", "a breeze sprang up"),
        ),
    ),
    (
        ("one autumn morning", "on the first day of the herring season", "late in October"),
        (
            ("rain drummed on every roof", "the rain", "the rain stopped"),
            ("fog lay over the water like wool", "the fog", "the fog lifted"),
            ("a gale was combing the waves", "the gale", "the gale blew itself out"),
        ),
    ),
    (
        ("one winter morning", "on the shortest day of the year", "the day before the Lantern Fair"),
        (
            ("snow fell softly on the masts", "the snow", "the snow stopped"),
            ("frost glittered on the ropes", "the frost", "the frost thawed"),
            ("hail rattled on the tin roofs", "the hail", "the hail turned to rain"),
        ),
    ),
)

UNITS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
