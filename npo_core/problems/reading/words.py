"""Words that may stand beside a number: units and what they are called, and words that change or deny a number."""

UNIT_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram",
    "g": "gram gm", "kg": "kilogram kilo", "t": "tonne", "oz": "ounce", "lb": "lbs", "ml": "milliliter millilitre",
    "l": "liter litre", "gal": "gallon", "s": "sec second", "min": "minute", "h": "hr hour", "d": "day",
    "wk": "week", "mo": "month", "yr": "year", "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz",
    "n": "newton", "j": "joule", "kj": "kilojoule", "w": "watt", "kw": "kilowatt", "kwh": "kilowatthour",
    "v": "volt", "pa": "pascal", "kpa": "kilopascal", "k": "kelvin", "mol": "mole", "mph": "mph", "kmh": "kmph kph",
    "rad": "radian", "deg": "degree", "%": "percent pct percentage", "usd": "dollar buck", "eur": "euro",
    "cent": "cents", "gbp": "quid", "inr": "rupee rs", "jpy": "yen", "cny": "yuan rmb", "rpm": "rpm", "kb": "kilobyte",
    "mb": "megabyte", "gb": "gigabyte", "ha": "hectare", "acre": "acre", "atm": "atmosphere", "amu": "amu",
    "c": "celsius", "f": "fahrenheit",
}  # fmt: skip
SINGLE = frozenset("mgtlshdNJWVCFLA")  # letters that are units; in mathematics they are variables
UNITS = {name: unit for unit, names in UNIT_NAMES.items() for name in [unit, *names.split()]}
UNITS |= {f"{name}s": unit for name, unit in UNITS.items() if len(name) > 2} | {"inches": "in", "hrs": "h", "yrs": "yr"}
CURRENCY = {
    "$": "usd", "us$": "usd", "usd": "usd", "€": "eur", "eur": "eur", "£": "gbp", "gbp": "gbp", "¥": "jpy",
    "jpy": "jpy", "₹": "inr", "inr": "inr", "rs": "inr", "rs.": "inr", "cny": "cny", "rmb": "cny", "₩": "krw",
    "₽": "rub", "chf": "chf", "cad": "cad", "aud": "aud", "¢": "cent",
}  # fmt: skip
MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # as powers of ten
HEDGES = "about approximately approx around roughly exactly precisely only just circa a an the total of".split()

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand "
    "thousands million millions billion billions trillion trillions dozen dozens score gross half halves third "
    "thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth "
    "ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths double triple twice "
    "thrice quadruple pair pairs couple lakh lakhs crore crores k bn mn ones tens twos threes fours fives sixes "
    "sevens eights nines zeros zeroes followed halved doubled tripled quadrupled reversed negated inverted mln "
    "thsd permille hexadecimal hex octal binary"
)
OPERATIONS = (
    "plus minus negative positive times multiplied divided over squared cubed power powers factorial modulo mod "
    "choose raised log ln sin cos tan cot sec csc exp pi sqrt root roots infinity inf alpha beta gamma theta "
    "lambda mu phi sigma omega e i x y z n k bmod lcm gcd max base fact radical delta tau kappa epsilon zeta eta "
    "xi rho chi psi nu reciprocal inverse sum difference product quotient exponent"
)
DENIALS = (
    "and or nor but not no none neither either both if unless else then than except excluding without versus vs "
    "instead rather though although while whereas wrong incorrect false invalid impossible undefined unknown "
    "mistake maybe perhaps possibly probably actually correction wait oops sorry never cannot isn't aren't wasn't "
    "don't doesn't can't won't is are was were be been being am has have had do does did will would could should "
    "might may must equals equal remainder between until till through to up under below above beyond least most "
    "minimum maximum almost nearly plus short nope nothing nah wan ppm bps less lesser greater rem overdrawn und "
    "oder nicht kein et ou pas non ni y o sino ma ale"
)
TALK = (
    "say says said claim claims claimed think thinks thought believe doubt suppose supposed assume assumed guess "
    "wonder hope untrue deny"
)
COUNTS = frozenset(f"{NUMBERS} squared cubed factorial pi".split()) - {
    "k",
    "followed halved doubled tripled quadrupled reversed negated inverted mln thsd permille hexadecimal hex octal "
    "binary",
}
CHANGING = frozenset(f"{NUMBERS} {OPERATIONS} {DENIALS}".split())
ALLOWED = (
    "sum difference product quotient remainder maximum minimum x y z n k i e max least most root roots both has have "
    "had positive pair pairs score"
)
NOT_A_NAME = (CHANGING - set(ALLOWED.split())) | {"less", *TALK.split()}
