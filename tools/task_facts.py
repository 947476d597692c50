"""Facts and sentence parts of the task sets, written for this project.

In a list of pairs, "a:b c:d", an underscore is a space. In a question with choices, the first one
is right. In a table of pairs, no other pair's answer is right.
"""

CAPITALS = (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Japan:Tokyo China:Beijing "
    "Russia:Moscow Egypt:Cairo Greece:Athens Poland:Warsaw Austria:Vienna Hungary:Budapest "
    "Sweden:Stockholm Norway:Oslo Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Canada:Ottawa "
    "Cuba:Havana Peru:Lima Chile:Santiago Turkey:Ankara Iran:Tehran Iraq:Baghdad Thailand:Bangkok "
    "Vietnam:Hanoi Kenya:Nairobi Belgium:Brussels Romania:Bucharest Bulgaria:Sofia "
    "Iceland:Reykjavik Nepal:Kathmandu Jamaica:Kingston South_Korea:Seoul "
    "the_United_Kingdom:London"
)
SYMBOLS = (
    "hydrogen:H helium:He carbon:C nitrogen:N oxygen:O sodium:Na magnesium:Mg aluminum:Al "
    "sulfur:S chlorine:Cl potassium:K calcium:Ca iron:Fe copper:Cu zinc:Zn silver:Ag gold:Au "
    "lead:Pb"
)
CONTINENTS = (
    "Kenya:Africa Nigeria:Africa Morocco:Africa Ghana:Africa Japan:Asia India:Asia Vietnam:Asia "
    "Nepal:Asia France:Europe Poland:Europe Sweden:Europe Portugal:Europe Brazil:South_America "
    "Peru:South_America Chile:South_America Bolivia:South_America"
)
YOUNG = (
    "dog:puppy cat:kitten cow:calf horse:foal sheep:lamb goat:kid pig:piglet bear:cub "
    "duck:duckling goose:gosling frog:tadpole kangaroo:joey"
)
OPPOSITES = (
    "hot:cold up:down day:night open:closed early:late fast:slow wet:dry light:dark full:empty "
    "rich:poor happy:sad left:right first:last thick:thin true:false buy:sell"
)
QUESTIONS = (
    "How many days are there in a week?|Seven|Five|Eight|Ten",
    "How many months are there in a year?|Twelve|Ten|Eleven|Fifteen",
    "How many minutes are there in an hour?|Sixty|Thirty|Ninety|Fifty",
    "How many legs does a spider have?|Eight|Six|Four|Ten",
    "How many legs does an insect have?|Six|Eight|Four|Ten",
    "How many sides does a triangle have?|Three|Four|Five|Six",
    "How many sides does a hexagon have?|Six|Five|Seven|Eight",
    "What color is a ripe banana?|Yellow|Blue|Purple|Gray",
    "What color is fresh grass?|Green|Orange|Purple|White",
    "What color is fresh snow?|White|Black|Green|Red",
    "Which planet is closest to the Sun?|Mercury|Jupiter|Saturn|Neptune",
    "Which planet is the largest in the solar system?|Jupiter|Mars|Earth|Venus",
    "Which planet is called the Red Planet?|Mars|Venus|Saturn|Uranus",
    "What do bees make?|Honey|Milk|Bread|Cheese",
    "Which month comes after March?|April|June|January|August",
    "Which season is the hottest?|Summer|Winter|Spring|Autumn",
    "Which language do most people in Brazil speak?|Portuguese|German|Russian|Japanese",
    "Which language do most people in Austria speak?|German|Italian|Greek|Polish",
    "Which language do most people in Mexico speak?|Spanish|French|Dutch|Arabic",
    "Who wrote the play Hamlet?|William Shakespeare|Charles Dickens|Mark Twain|Jane Austen",
    "Who developed the theory of relativity?|Albert Einstein|Isaac Newton|Charles Darwin|"
    "Louis Pasteur",
    "Who wrote On the Origin of Species?|Charles Darwin|Albert Einstein|Isaac Newton|"
    "Galileo Galilei",
    "Who was the first president of the United States?|George Washington|Abraham Lincoln|"
    "Thomas Jefferson|John Adams",
    "Which gas do plants take from the air to make sugar?|Carbon dioxide|Helium|Neon|Hydrogen",
    "What is frozen water called?|Ice|Sand|Steam|Salt",
    "Which organ pumps blood through the body?|The heart|The liver|The stomach|The skin",
    "Which organ do people use to think?|The brain|The kidney|The lung|The liver",
    "Which organ do people breathe with?|The lungs|The kidneys|The ears|The bones",
    "Which instrument measures temperature?|A thermometer|A ruler|A clock|A scale",
    "Which instrument is used to look at stars?|A telescope|A microscope|A compass|A stethoscope",
    "Which animal is a bird?|A penguin|A bat|A dolphin|A lizard",
    "Which animal is a mammal?|A whale|A shark|A snake|A frog",
    "Which animal lays eggs?|A hen|A cow|A horse|A rabbit",
    "Which animal spins a web?|A spider|A horse|A rabbit|A cow",
    "Which food is made from milk?|Cheese|Bread|Rice|Honey",
    "Which food is made from flour?|Bread|Butter|Cheese|Honey",
    "Which ocean lies between Europe and America?|The Atlantic Ocean|The Indian Ocean|"
    "The Pacific Ocean|The Southern Ocean",
    "On which continent is the Sahara desert?|Africa|Europe|Australia|South America",
    "Which river flows through Egypt?|The Nile|The Danube|The Amazon|The Rhine",
    "What is the largest country in the world by area?|Russia|India|Brazil|France",
    "Where do fish live?|In water|In trees|In the air|In the sand",
    "What does a baker make?|Bread|Shoes|Chairs|Clocks",
    "What does a carpenter work with?|Wood|Bread|Milk|Glass",
    "What do people use an umbrella for?|To stay dry|To cook food|To cut paper|To write notes",
)

# A Python function, an example, the right line, three wrong lines.
FUNCTIONS = (
    ("double(x)", "double(4)", "return x * 2", "return x + 2", "return x ** 3", "return x - 2"),
    ("square(x)", "square(5)", "return x * x", "return x + x", "return x - x", "return x // 2"),
    ("add(a, b)", "add(2, 3)", "return a + b", "return a - b", "return a * b", "return b - a"),
    ("subtract(a, b)", "subtract(9, 4)", "return a - b", "return a + b", "return b - a",
     "return a * b"),
    ("multiply(a, b)", "multiply(6, 4)", "return a * b", "return a + b", "return a - b",
     "return a % b"),
    ("divide(a, b)", "divide(9, 2)", "return a / b", "return a * b", "return b / a",
     "return a + b"),
    ("remainder(a, b)", "remainder(7, 4)", "return a % b", "return a // b", "return a + b",
     "return a / b"),
    ("is_even(n)", "is_even(6)", "return n % 2 == 0", "return n % 2 == 1", "return n == 2",
     "return n > 10"),
    ("is_odd(n)", "is_odd(7)", "return n % 2 == 1", "return n % 2 == 0", "return n == 1",
     "return n < 0"),
    ("is_positive(n)", "is_positive(3)", "return n > 0", "return n < 0", "return n == 0",
     "return n > 9"),
    ("is_negative(n)", "is_negative(-3)", "return n < 0", "return n > 0", "return n == 0",
     "return n > 9"),
    ("is_empty(items)", "is_empty([])", "return len(items) == 0", "return len(items) > 0",
     "return len(items) == 1", "return len(items) > 5"),
    ("larger(a, b)", "larger(8, 3)", "return max(a, b)", "return min(a, b)", "return a - b",
     "return abs(b)"),
    ("smaller(a, b)", "smaller(8, 3)", "return min(a, b)", "return max(a, b)", "return abs(a)",
     "return a + b"),
    ("total(items)", "total([1, 2, 5])", "return sum(items)", "return len(items)",
     "return max(items)", "return min(items)"),
    ("count(items)", "count([4, 9, 2, 2])", "return len(items)", "return sum(items)",
     "return max(items)", "return min(items)"),
    ("first(items)", "first([5, 6, 7])", "return items[0]", "return items[1]",
     "return items[-1]", "return items[2]"),
    ("last(items)", "last([5, 6, 7])", "return items[-1]", "return items[0]", "return items[1]",
     "return items[-2]"),
    ("largest(items)", "largest([3, 8, 5])", "return max(items)", "return min(items)",
     "return len(items)", "return sum(items)"),
    ("smallest(items)", "smallest([3, 8, 5])", "return min(items)", "return max(items)",
     "return items[2]", "return sum(items)"),
    ("average(items)", "average([2, 4, 9])", "return sum(items) / len(items)",
     "return len(items) / sum(items)", "return sum(items) * len(items)",
     "return max(items) / len(items)"),
    ("shout(text)", "shout('hello')", "return text.upper()", "return text.lower()",
     "return text.title()", "return text.strip()"),
    ("whisper(text)", "whisper('Hello')", "return text.lower()", "return text.upper()",
     "return text.title()", "return text.strip()"),
    ("words(text)", "words('one two')", "return text.split()", "return text.strip()",
     "return text.upper()", "return text.title()"),
    ("backwards(text)", "backwards('abc')", "return text[::-1]", "return text[::2]",
     "return text[1:]", "return text[:-1]"),
    ("in_order(items)", "in_order([3, 1, 2])", "return sorted(items)", "return list(items)",
     "return max(items)", "return sum(items)"),
    ("greet(name)", "greet('Ann')", "return 'Hello, ' + name", "return 'Goodbye, ' + name",
     "return name + ', hello'", "return 'Hello, ' * 2"),
    ("absolute(x)", "absolute(-7)", "return abs(x)", "return int(x)", "return x * 2",
     "return x - 1"),
)  # fmt: skip

NAMES = "Anna Ben Carl Dan Emma Fred Grace Henry Julia Kate Leo Mary Nick Oscar Paul Rose Sam Tom"
ROOMS = "kitchen garden office garage bedroom library hallway cellar"
THINGS = "key book letter phone wallet watch camera ring"
FRUIT = "apples oranges pears plums lemons peaches"
COLORS = "brown black white gray red yellow"
ANIMALS = "dogs cats horses rabbits birds goats"
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
CITIES = "Lyon Boston Madrid Toronto Dublin Oslo Denver Milan Sydney Austin"
MONTHS = "January March April June July August October November December"
GOODS = "lamp chair table mirror blanket kettle bicycle printer keyboard backpack"
SURNAMES = "Miller Baker Clark Lewis Walker Young Turner Parker Morris Cooper"
# "Anna is WORD than Ben": who comes first, who last
ORDERS = (("older", "oldest", "youngest"), ("taller", "tallest", "shortest"))
DAYS = (
    (1, "is tomorrow"),
    (2, "is the day after tomorrow"),
    (3, "is it in three days"),
    (-1, "was yesterday"),
)

# Language: singular, plural.
NOUNS = (
    "key:keys dog:dogs boy:boys girl:girls teacher:teachers car:cars house:houses bird:birds "
    "book:books doctor:doctors student:students tree:trees child:children man:men woman:women"
)
# A verb's past tense, a wrong regular form, and the rest of the sentence.
PASTS = (
    "went|goed|to the market",
    "ate|eated|the whole cake",
    "took|taked|the last train",
    "gave|gived|her a small gift",
    "ran|runned|to the station",
    "wrote|writed|a long letter",
    "spoke|speaked|to the crowd",
    "broke|breaked|the old window",
    "bought|buyed|a new coat",
    "brought|bringed|some food",
    "caught|catched|a big fish",
    "taught|teached|the class",
    "swam|swimmed|across the lake",
    "drove|drived|the red truck",
    "sang|singed|a sad song",
)
MEN_WOMEN = "Carl:Anna Dan:Emma Fred:Grace Henry:Julia Leo:Kate Nick:Mary Oscar:Rose"
ARTICLES = (
    "apple:an orange:an egg:an old_hat:an umbrella:an banana:a pear:a lemon:a new_hat:a red_coat:a"
)
