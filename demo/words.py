"""Words the tasks are made of: all common, lower case, letters only. Written for this project; no list was copied."""

THINGS = """
apple pear plum cherry lemon orange grape peach melon mango banana fig olive onion carrot potato tomato pepper bean pea corn
rice bread butter cheese milk honey sugar salt soup cake cookie egg tea coffee juice water cat dog horse cow pig goat sheep
hen duck goose swan crow eagle owl robin sparrow fox wolf bear deer moose hare rabbit mouse rat bat otter beaver seal whale
shark trout salmon crab snail frog toad snake lizard turtle spider ant bee wasp moth tiger lion zebra camel table chair bench
shelf lamp clock mirror carpet pillow blanket window door wall roof floor stair cellar garden fence gate bridge road path
street tower castle church school market station harbor hotel office shop farm barn mill factory museum library hammer nail
saw drill rope chain wheel engine motor pump pipe valve bolt screw spring lever gear belt brush bucket shovel ladder knife
fork spoon plate bowl cup glass bottle basket box bag pocket button needle thread cloth shirt coat hat glove shoe sock scarf
book paper pencil pen letter stamp map ticket coin card key lock phone radio camera screen keyboard cable battery switch river
lake ocean island beach hill mountain valley forest desert field meadow cave cliff storm cloud rain snow wind fog frost sun
moon star planet rocket train truck bus car bicycle boat ship ferry plane tram cart sled drum flute violin piano guitar
trumpet bell song stone sand clay iron copper silver gold steel coal wood leaf root seed flower grass tree branch bark moss
fern oak pine birch maple winter summer autumn morning evening night week month year hour minute garden circle square corner
line point number word sentence doctor teacher farmer baker sailor pilot painter singer writer driver miner tailor guard king
queen child friend guest neighbor
""".split()

QUALITIES = """
red blue green yellow black white brown gray pink purple small large tall short long wide narrow thick thin heavy light fast
slow warm cold hot cool dry wet clean dirty new old young soft hard loud quiet bright dark sweet sour bitter rich poor strong
weak full empty open closed round flat sharp smooth rough early late easy simple plain kind brave calm happy proud quick
steady gentle fresh
""".split()

VERBS = """
run walk jump swim climb fly read write draw paint sing dance cook bake wash clean build break open close push pull lift carry
throw catch find lose buy sell send bring keep give take make count sort copy move turn stop start wait watch listen speak ask
answer help play work rest sleep eat drink plant grow cut mix pour fill measure check repair print load save
""".split()

NAMES = """
Anna Ben Carla David Emma Felix Greta Henry Ida Jack Karen Leo Maria Nina Oscar Paul Quinn Rosa Sam Tina Uma Victor Wendy
Xaver Yara Zoe Adam Bella Carl Dora Eric Fiona Gus Hanna Ivan Julia Kurt Laura Max Nora Otto Petra Ralph Sara Tom Ursula Vera
Walter Alice Bruno Clara Dennis Elena Frank Gloria Hugo Irene Jonas Kira Lukas Mona Nils Olga Peter Rita Simon Thea Viktor
Yuri Amir Chen Fatima Hiro
""".split()

CITIES = """
Berlin Paris London Madrid Rome Vienna Prague Oslo Dublin Lisbon Athens Warsaw Zurich Geneva Hamburg Munich Cologne Lyon Milan
Turin Naples Porto Seville Boston Chicago Denver Dallas Seattle Toronto Montreal Lima Quito Cairo Nairobi Lagos Delhi Mumbai
Tokyo Osaka Kyoto Seoul Sydney Perth Auckland Helsinki Tallinn Riga Vilnius Budapest Sofia Ankara Tunis
""".split()

WORDS = sorted(set(THINGS + QUALITIES + VERBS))

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()

ONES = (
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen""".split()
)
TENS = [None, None, "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_in_words(n):
    """0 to 999."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
    rest = n % 100
    return ONES[n // 100] + " hundred" + (" and " + number_in_words(rest) if rest else "")


def made_up_word(rng, syllables=None):
    """Pronounceable and, nearly always, no word: what is copied or reversed must be read, not remembered."""
    out = []
    for _ in range(syllables or rng.choice((1, 2, 2, 3))):
        out.append(
            rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + (rng.choice("lmnrst") if rng.random() < 0.35 else "")
        )
    return "".join(out)


def any_word(rng, made_up=0.25):
    return made_up_word(rng) if rng.random() < made_up else rng.choice(WORDS)


def different_words(rng, n, made_up=0.25):
    words = []
    while len(words) < n:
        w = any_word(rng, made_up)
        if w not in words:
            words.append(w)
    return words
