"""The built-in model's vocabulary: verbs, nouns and directions of each camera move; light, effects, and other words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ADJECTIVES",
    "CALM",
    "DIRECTIONS",
    "EFFECTS",
    "HOLD",
    "LIGHTS",
    "NOUNS",
    "PLACES",
    "SPEEDS",
    "STYLES",
    "SUBJECTS",
    "VERBS",
    "MoveWords",
    "Verb",
]


@dataclass(frozen=True)
class Verb:
    """A verb in its three forms. `complete` ones say the direction themselves, with `tail`: "zooms" + "in"."""

    base: str
    third: str
    ing: str
    complete: bool = False
    tail: str = ""


@dataclass(frozen=True)
class MoveWords:
    """How one move is said: verbs, noun phrases with the direction in them, and what may follow a complete verb."""

    verbs: tuple[Verb, ...]
    nouns: str
    objects: str = ""


def _verbs(text: str, complete: bool = False) -> tuple[Verb, ...]:
    """Read "pan pans panning|zoom zooms zooming in": three forms, and what follows the verb."""
    found = []
    for entry in text.split("|"):
        base, third, ing, *tail = entry.split()
        found.append(Verb(base, third, ing, complete, " ".join(tail)))
    return tuple(found)


_ASIDE = _verbs(
    "pan pans panning|pan pans panning|pan pans panning|move moves moving|slide slides sliding|glide glides gliding"
    "|drift drifts drifting|swing swings swinging|turn turns turning|travel travels travelling|track tracks tracking"
    "|truck trucks trucking|sweep sweeps sweeping|shift shifts shifting|go goes going|look looks looking"
    "|swivel swivels swivelling|scroll scrolls scrolling|float floats floating|traverse traverses traversing"
    "|wander wanders wandering"
)
_ASIDE_NOUNS = (
    "pan {d}|pan to the {d}|{d} pan|{d}ward pan|panning shot to the {d}|move to the {d}|camera move to the {d}"
    "|tracking shot to the {d}|slide to the {d}|drift to the {d}|travelling shot to the {d}"
    "|horizontal pan to the {d}|movement to the {d}|sweep to the {d}|camera pan {d}|turn to the {d}|{d} turn"
    "|motion towards the {d}|pan {d}wards"
)
_UPRIGHT = _verbs(
    "tilt tilts tilting|tilt tilts tilting|tilt tilts tilting|move moves moving|look looks looking|pan pans panning"
    "|glide glides gliding|drift drifts drifting|go goes going|shift shifts shifting|crane cranes craning"
    "|boom booms booming|pedestal pedestals pedestalling|slide slides sliding|travel travels travelling"
    "|float floats floating|swing swings swinging|sweep sweeps sweeping"
)
_UPRIGHT_NOUNS = (
    "tilt {d}|{d}ward tilt|tilt {d}wards|{d}ward move|camera move {d}|move {d}wards|vertical pan {d}|crane shot {d}"
    "|camera tilt {d}|movement {d}|{d}ward pan|{d}ward glide|drift {d}|motion {d}wards|pedestal {d}"
)
_RISE = _verbs("rise rises rising|climb climbs climbing|ascend ascends ascending|lift lifts lifting up", complete=True)
_SINK = _verbs(
    "descend descends descending|sink sinks sinking|drop drops dropping down|lower lowers lowering", complete=True
)
_IN = _verbs(
    "zoom zooms zooming in|zoom zooms zooming in|zoom zooms zooming in|push pushes pushing in"
    "|dolly dollies dollying in|move moves moving closer|move moves moving forward|move moves moving forwards"
    "|come comes coming closer|get gets getting closer|go goes going in|go goes going closer"
    "|travel travels travelling forward|close closes closing in|glide glides gliding forward|fly flies flying in"
    "|step steps stepping closer|drift drifts drifting closer|track tracks tracking in|zoom zooms zooming closer"
    "|draw draws drawing nearer|move moves moving in|ease eases easing in",
    complete=True,
)
_IN_NOUNS = (
    "zoom in|zoom-in|push in|push-in|dolly in|zoom into the scene|zoom in on the subject|move closer|forward move"
    "|forward dolly|camera zoom in|dolly forward|zoom towards the centre|approach|close-in zoom|inward zoom"
)
_OUT = _verbs(
    "zoom zooms zooming out|zoom zooms zooming out|zoom zooms zooming out|pull pulls pulling back"
    "|pull pulls pulling out|pull pulls pulling away|dolly dollies dollying out|move moves moving away"
    "|move moves moving back|move moves moving backward|move moves moving backwards|back backs backing away"
    "|draw draws drawing back|step steps stepping back|go goes going back|travel travels travelling backwards"
    "|glide glides gliding backward|drift drifts drifting away|fly flies flying out|retreat retreats retreating"
    "|back backs backing off|dolly dollies dollying back|ease eases easing out",
    complete=True,
)
_OUT_NOUNS = (
    "zoom out|zoom-out|pull back|pull-back|pull out|dolly out|zoom out of the scene|move away|backward move"
    "|backward dolly|camera zoom out|dolly back|retreat|outward zoom|zoom out to show more|wide zoom out"
)
_TURN = _verbs(
    "roll rolls rolling|roll rolls rolling|rotate rotates rotating|rotate rotates rotating|spin spins spinning"
    "|turn turns turning|twist twists twisting|revolve revolves revolving"
)
_TURN_NOUNS = (
    "roll {d}|{d} roll|{d} rotation|rotation {d}|{d} spin|camera roll {d}|spin {d}|{d} turn|{d} twist|{d} camera roll"
)
_COUNTER = "counter-clockwise|counterclockwise|anticlockwise|anti-clockwise|counter clockwise|anti clockwise"
_IN_OBJECTS = "on the subject|to the subject|on the scene|towards the centre|to the scene|on the face|on it"
_OUT_OBJECTS = "from the subject|from the scene|to show more|to show the whole scene|from it"


def listed(words: str) -> tuple[str, ...]:
    """Split "a|b|c"."""
    return tuple(words.split("|"))


def _each(nouns: str, words: str) -> str:
    return "|".join(nouns.replace("{d}", word) for word in words.split("|"))


VERBS: dict[str, MoveWords] = {
    "pan_left": MoveWords(_ASIDE, _each(_ASIDE_NOUNS, "left")),
    "pan_right": MoveWords(_ASIDE, _each(_ASIDE_NOUNS, "right")),
    "tilt_up": MoveWords(_UPRIGHT + _RISE, _each(_UPRIGHT_NOUNS, "up"), "over the scene|above it"),
    "tilt_down": MoveWords(_UPRIGHT + _SINK, _each(_UPRIGHT_NOUNS, "down"), "over the scene|below it"),
    "zoom_in": MoveWords(_IN, _IN_NOUNS, _IN_OBJECTS),
    "zoom_out": MoveWords(_OUT, _OUT_NOUNS, _OUT_OBJECTS),
    "roll_clockwise": MoveWords(_TURN, _each(_TURN_NOUNS, "clockwise")),
    "roll_counter_clockwise": MoveWords(_TURN, _each(_TURN_NOUNS, _COUNTER)),
}
_ASIDE_DIRECTIONS = (
    "{d}|{d}|to the {d}|to the {d}|{d}wards|{d}ward|towards the {d}|toward the {d}|to the {d} side"
    "|to the {d} hand side|over to the {d}|further {d}|to {d}"
)
DIRECTIONS: dict[str, str] = {
    "pan_left": _each(_ASIDE_DIRECTIONS, "left") + "|from right to left|from the right to the left|right to left",
    "pan_right": _each(_ASIDE_DIRECTIONS, "right") + "|from left to right|from the left to the right|left to right",
    "tilt_up": "up|up|upward|upwards|towards the top|to the top|towards the sky|to the sky|up to the sky"
    "|from bottom to top",
    "tilt_down": "down|down|downward|downwards|towards the bottom|to the bottom|towards the ground|to the ground"
    "|down to the ground|from top to bottom",
    "zoom_in": "",
    "zoom_out": "",
    "roll_clockwise": "clockwise|clockwise|in a clockwise direction|in clockwise direction",
    "roll_counter_clockwise": _COUNTER + "|in a counterclockwise direction|in an anticlockwise direction",
}
HOLD = (
    "the camera holds still|hold still|a still shot|the camera does not move|static camera|no camera movement"
    "|the camera stays still|keep the camera still|a static shot|fixed camera|locked-off shot|stay still|freeze"
    "|nothing moves|no motion|the camera is still|stand still|do not move|keep still|the camera is static"
    "|static shot|the camera remains still|no movement|without any motion|the camera stays fixed|still camera"
    "|still image|a freeze frame|the picture stays as it is|don't move|the camera doesn't move|motionless"
    "|a motionless shot|a fixed shot|tripod shot|the camera is on a tripod|hold the camera steady|hold the frame"
    "|completely still|keep everything still|no zoom, no pan|the view does not change|the shot is locked"
    "|stationary camera|a stationary shot|the view stays still|hold the shot still|static view"
    "|the scene stands still|everything stands still|a frozen moment|unmoving"
)
LIGHTS: dict[str, str] = {
    "night": "fades to night|fading to night|the picture fades into night|the day fades|fade into the night"
    "|night falls|fade to night|it gets dark|the light fades|it grows darker|the scene darkens|fade to dark"
    "|dusk falls|the sun goes down|the sun sets|nightfall|it becomes night|day turns to night|darkness falls"
    "|the day ends|at nightfall|the scene fades to night|the lights go out|it turns dark|evening comes"
    "|the scene grows dark|turning into night",
    "dawn": "fades to dawn|fading to dawn|the picture fades into dawn|the night fades into dawn|fade into the dawn"
    "|dawn|dawn breaks|fade to dawn|the sun rises|sunrise|the day breaks|morning comes|daybreak|it becomes day"
    "|night turns to day|the morning light grows|the sun comes up|first light of dawn|a new day begins|at sunrise"
    "|the scene fades to dawn|the dawn light comes|the morning sun rises|turning into day|dawn is breaking",
    "darker": "the light gets darker|dim the light|the light dims|make it darker|a little darker"
    "|the picture gets darker|it gets dimmer|lower the brightness",
    "brighter": "it gets brighter|the light grows|the scene brightens|it becomes bright|make it brighter"
    "|the light gets brighter|the picture brightens|more and more light|raise the brightness",
    "warmer": "the light turns golden|warm evening light|golden hour|the colours get warmer|warm light"
    "|the scene turns warm|golden light|a warm glow|the light gets warmer|warmer colours",
    "colder": "the light turns cold|cold blue light|the colours get colder|the scene turns blue|the light turns blue"
    "|cold light|colder colours|the scene turns cold|blue light|the light gets colder",
}
_WATERS = "water|lake|sea|river|pond|ocean|pool|water surface"
EFFECTS: dict[str, str] = {
    "ripple": _each(
        "the {d} ripples|rippling {d}|ripples on the {d}|the {d} moves|waves on the {d}|gentle waves on the {d}"
        "|the {d} is rippling|the {d} flows|moving {d}|small waves run over the {d}|the surface of the {d} ripples"
        "|the {d} shimmers with ripples|the {d} is moving in waves|wavy {d}|the {d} undulates",
        _WATERS,
    )
    + "|ripples|gentle ripples|waves roll in|the waves move|soft waves|waves|water ripples|gentle waves"
    "|the tide moves",
    "sway": _each(
        "the {d} sway|the {d} sway in the wind|swaying {d}|the {d} move in the wind|wind in the {d}"
        "|the {d} are swaying|a breeze moves the {d}|the wind moves the {d}|the {d} rustle"
        "|the {d} wave in the breeze|the {d} swing in the wind|the {d} bend in the wind|the {d} move in the breeze"
        "|the {d} tremble",
        "leaves|trees|branches|flowers|plants|reeds|bushes|blades of grass",
    )
    + "|the grass sways|swaying grass|grass swaying in the wind|the grass moves in the wind|the foliage sways"
    "|rustling leaves|a breeze|wind blows through the trees|the wind blows|a light wind|a gentle breeze|windy"
    "|the meadow sways|the grass waves",
    "shimmer": "heat shimmer|the air shimmers|hot air shimmers|heat haze|shimmering heat"
    "|the air shimmers in the heat|a mirage|hot shimmering air|the heat makes the air shimmer|shimmering air"
    "|the hot air flickers over the ground|heat waves rise|heat distortion|rising heat|hot air rises|hot air"
    "|the air is shimmering|the air trembles in the heat|heat shimmers",
    "flicker": "the light flickers|flickering light|the candle flickers|candlelight flickers|flickering candlelight"
    "|the lamp flickers|a flickering lamp|firelight flickers|flickering fire|the lights flicker|a flickering flame"
    "|unsteady light|the light is flickering|the fire flickers|flickering lights|flickering|flicker of the light",
    "shake": "hand-held camera|handheld camera|hand-held|handheld|hand-held sway|handheld sway|a shaky camera"
    "|camera shake|hand-held footage|handheld shot|a hand-held shot|the camera shakes|shaky cam|shaky footage"
    "|the camera wobbles|held by hand|the camera is held by hand|filmed by hand|handheld footage"
    "|the camera is shaking|wobbly camera|a shaky shot",
}
# Adverbs, and adjectives before a noun.
SPEEDS: dict[str, tuple[str, str]] = {
    "slow": (
        "slowly|slowly|gently|very slowly|slow|softly|at a slow pace|really slowly|leisurely|at low speed"
        "|slow motion|carefully|lazily|a little|slightly|gradually|quite slowly|unhurriedly",
        "slow|slow|gentle|very slow|slow-paced|soft|leisurely|slight|gradual|careful|subtle",
    ),
    "fast": (
        "fast|fast|quickly|rapidly|at high speed|swiftly|very fast|very quickly|at a fast pace|speedily|briskly"
        "|at full speed|really fast|hastily|suddenly",
        "fast|fast|quick|rapid|swift|very fast|speedy|brisk|fast-paced|high-speed|sudden",
    ),
}
SUBJECTS = listed(
    "a lake|mountains at dusk|a portrait of a woman|an old man reading|a cat on a sofa|a red car|a busy street"
    "|a forest|a cup of coffee|the sea|a city at night|a field of flowers|a castle|a dog running|a bowl of fruit"
    "|a bridge|a boat|a temple in china|a rocket|a garden|a snowy village|a kitchen|a bird on a branch|a dancer"
    "|a desert road|a train|a stormy sky|a child with a kite|an astronaut|a wooden table|a robot|a horse|a waterfall"
    "|a market|a tall building|clouds|a candle|a bookshop|a rainy window|the moon|a lighthouse|a river"
    "|a smiling girl|the cat|the scene|the picture|this photo|the house|a man|a woman|the city|the landscape"
    "|the flower|coins on a table|a photographer|grass|leaves|trees|the street|an old photo|a beach|a church|a face"
    "|the garden|a valley|the harbour|the subject"
)
# Subjects are also made up of these, so that a word which asks for nothing comes to mean nothing.
NOUNS = listed(
    "man|woman|girl|boy|child|cat|dog|bird|horse|cow|fish|lion|dragon|robot|car|bus|train|boat|ship|plane|rocket"
    "|bicycle|house|church|castle|tower|bridge|street|road|path|wall|window|door|room|kitchen|table|chair|bed|sofa"
    "|lamp|cup|plate|bottle|book|clock|guitar|piano|phone|camera lens|coin|bowl|apple|bread|cake|mountain|hill"
    "|valley|desert|island|beach|rock|stone|sand|snow|ice|cloud|rain|storm|rainbow|sun|star|planet|garden|park"
    "|forest|tree|flower|rose|leaf|grass|field|farm|village|city|town|market|shop|school|station|harbour|lighthouse"
    "|statue|painting|face|eyes|hair|hand|smile|hat|dress|suit|crowd|family|couple|king|queen|soldier|doctor|cook"
    "|artist|musician|astronaut|photographer|temple|palace"
)
ADJECTIVES = listed(
    "old|young|small|big|tall|short|red|blue|green|yellow|white|black|golden|silver|brown|grey|pink|wooden|stone"
    "|glass|happy|sad|angry|sleepy|tired|lonely|famous|strange|ancient|modern|empty|crowded|quiet|busy|rainy|snowy"
    "|sunny|foggy|cloudy|dusty|shiny|colourful|beautiful|ugly|lovely|little|huge|tiny|elegant|rusty|broken|abandoned"
    "|wild|sweet|fresh|distant"
)
PLACES = listed(
    "in the sky|on the table|on the ground|above the ground|at the top of the hill|below the bridge|under the tree"
    "|by the sea|near the lake|in the city|in the garden|at home|in front of the house|behind the house"
    "|on the left side of the street|on the right of the picture|on the left|on the right|in the foreground"
    "|in the background|in the middle|at the window|by the river|in the desert|on the road|in the rain|in the snow"
    "|in the forest|at the beach|inside|outside|over there|in the morning|in the evening|at noon|in summer|in winter"
    "|from above|in the distance|on a hill|on the water|in the grass"
)
STYLES = listed(
    "cinematic|high quality|4k|photorealistic|soft light|beautiful|film grain|detailed|dramatic|masterpiece"
    "|realistic|shallow depth of field|vivid colours|wide shot|close up|documentary|smooth|hdr|calm|moody"
    "|best quality|8k|sharp|award winning|natural|35mm|epic|stunning|ultra detailed|bokeh|vintage|studio lighting"
    "|highly detailed|film look"
)
CALM = (
    "stands there|sits on a chair|is sleeping|is reading|is cooking|looks happy|wears a hat|holds a cup"
    "|plays the piano|make it come alive|animate this picture|the person smiles|she waves her hand|something happens"
    "|a beautiful video|the dog barks|he walks|the car drives off|magic|the flowers bloom|dancing|smiles"
    "|sings a song|eats an apple|talks|blinks|is happy|jumps|runs|laughs|make a video|bring it to life"
    "|turn this into a movie|animate|make it live|the cat purrs|he speaks to us|explodes|a dragon appears"
    "|people walk by|it starts to rain|snow is falling|reading a book|the rocket launches|cars drive by|birds fly by"
    "|a ghost appears|she nods|the man winks|everything is made of gold"
)
