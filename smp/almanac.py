# %% [markdown]
# ## The almanac: questions and answers that need no download
#
# SQuAD asks about passages from Wikipedia. The almanac has the same form, but its passages are made
# up here, so that everything below also runs without a network. Each one describes an expedition, a
# ship, a novel, a company, a bridge, a festival, an observatory or a cup final that never was.
#
# Every fact comes as a pair: a leader *and* a doctor, a year of departure *and* a year of return.
# Whatever is asked, a second answer of the same kind stands beside the right one, often in the same
# sentence, so finding a name or a year is not enough: the reader must tie each to its role. The
# test questions are about people, places and things that training never mentions, and some of
# their wordings are new as well.

# %%
import itertools
import random
import re

# %% [markdown]
# Names are put together from these words. Every third word is kept for the test split, so that it
# tells of nobody and nowhere known from training.

# %%
ALMANAC_WORDS = {
    "first": """Ruth Edwin Clara Martin Helen Oscar Alice Hugo Nora Walter Grace Simon Edith Victor
        Laura Felix Agnes Julian Rosa Leonard Martha Conrad Irene Albert Sylvia Bernard Judith
        Arthur Flora Gilbert Emma Stanley Vera Philip Lydia Harold""",
    "surname": """Harper Colby Whitaker Marsh Dalton Pryce Fletcher Hobbs Lennox Carver Thorne Quinn
        Barlow Finch Sutton Mercer Draper Holt Kendall Rowe Ashcroft Pike Warner Blake Tanner Foster
        Greer Hale Norris Cobb Wyatt Lambert Page Sinclair Drake Becker Vance Rhodes Stone Hardy
        Tate Weaver Olsen Crane Nash Ramsey Doyle Burke""",
    "stem": """Brack Thorn Kel Mar Wind Ash Hol Stan Elm Bram Dun Fal Cor Lang Pen Hart Wex Rush
        Sand Oak Tor Glen Ald Raven Mill Cald Win Har Beck Lind Car Ros Whit Nor Stock Bar""",
    "ending": "ford wick dale by ton mouth well ham stead bury port field",
    "adjective": """Silver Quiet Golden Broken Hidden Secret Distant Frozen Gentle Hollow Crystal
        Wandering Lonely Velvet Burning Silent Painted Restless Copper Winter Northern Crooked
        Paper Midnight""",
    "noun": """Orchard Lantern Mirror River Garden Window Harbour Staircase Letter Forest Clock
        Island Piano Compass Kingdom Lighthouse Shadow Portrait""",
    "bird": """Heron Falcon Swan Curlew Eagle Kestrel Gull Sparrow Pelican Robin Osprey Nightingale
        Albatross Magpie Stork""",
    "goods": """amber copper salt silver jade beeswax coal sulphur quartz pearls ivory cedar tobacco
        cotton sugar honey spices pepper sapphires leather rubies emeralds porcelain cocoa""",
    "trade": """baker clockmaker weaver miller sailor tailor teacher gardener blacksmith barber
        painter fisherman butcher carpenter shepherd lawyer locksmith postman""",
    "product": """kettles bicycles violins gloves umbrellas clocks lamps pianos candles typewriters
        cameras stoves chairs buttons mirrors carpets razors bells""",
    "material": """granite brick timber concrete limestone steel marble iron slate basalt bronze
        sandstone""",
    "event": """boat race, lantern parade, puppet show, chess tournament, folk dance, horse auction,
        poetry reading, kite contest, brass concert, cooking contest, costume ball, wrestling match,
        sword dance, market feast, torch procession""",
    "sight": """comets meteors sunspots galaxies asteroids eclipses nebulae planets pulsars quasars
        moons supernovae auroras clouds satellites""",
    "colour": """scarlet yellow purple green orange white crimson violet brown blue turquoise black
        silver maroon pink""",
}

# %% [markdown]
# Each table opens with a domain: how a passage first names its subject, and what it says later on
# (`{it}`). A fact names its two roles and their kind, followed by the sentences that can state it
# and, for each role, the ways to ask for it. `[a|b|*c]` offers a choice; what carries a star is
# heard in the test split alone.

# %%
ALMANAC_TRAVEL = """
expedition = the {place} expedition / the expedition / the party
leader + doctor: person
    {leader} [led|headed|*steered] {it}. / {doctor} was the doctor of {it}.
    [At the head of|In command of] {it} stood {leader}. / The sick on {it} were treated by {doctor}.
    The doctor of {it} was {doctor}; [the orders came from|*it was led by] {leader}.
    leader? Who [led|headed|was in charge of|*was the commander of] {it}?
    doctor? Who [treated the sick|was the physician|was the doctor|*healed the ill] of {it}?
left + back: year
    {it} [set out|left] in {left}. / In {back} {it} [came home|was welcomed back].
    The journey of {it} began in {left}. / It was {back} before {it} [returned|*was over].
    Members of {it} said farewell in {left} and [met their families|were welcomed] in {back}.
    left? When did {it} [set out|depart|begin|*leave]?
    back? When did {it} [return|come home|end|*get back]?
start + winter: place
    {it} [started from|*set off from] {start}. / {winter} is where {it} spent the winter.
    {start} was the starting point of {it}. / {it} hid from the [cold|snow] at {winter}.
    {it} spent the coldest months at {winter}, far from {start}, where it [began|*had met].
    start? Where did {it} [begin|set off from|start from|*have its starting point]?
    winter? Where did {it} [spend the winter|wait for spring|hide from the cold|*sit out the snow]?
men + mules: number
    {it} [counted|had] {men} men. / There were {mules} mules with {it}.
    As many as {men} men joined {it}. / The baggage of {it} was [carried|*borne] by {mules} mules.
    The stores of {it} were [loaded|strapped] on {mules} mules, led by {men} men.
    men? How many [men belonged to|people were in|men took part in|*men travelled with] {it}?
    mules? How many [mules went with|animals served|beasts carried things for|*mules helped] {it}?
hope + find: goods
    {it} was [looking|searching] for {hope}. / What {it} really [found|*dug up] was {find}.
    The backers of {it} hoped for {hope}. / {it} brought home [a chest|a load] of {find}.
    {it} [discovered|*turned up] {find} instead of the {hope} it was sent for.
    hope? What [was {it} looking for|was {it} meant to find|did {it} hope for|*was the aim of {it}]?
    find? What did {it} [really find|bring home|discover|*come back with]?

ship = the {adjective} {bird} / the ship / the vessel
captain + owner: person
    {captain} was the captain of {it}. / {it} [belonged to|was owned by] {owner}.
    The helm of {it} was held by {captain}. / {owner} had [bought|paid for|*ordered] {it}.
    {captain} and {owner} loved {it}; the former [sailed|steered] it, the latter owned it.
    captain? Who [commanded|was the captain of|steered|*was the skipper of] {it}?
    owner? [Who owned|Who paid for|Whose property was|*Who was the owner of] {it}?
launch + loss: year
    {it} was launched in {launch}. / In {loss} {it} [sank|went down] in a storm.
    The first voyage of {it} was in {launch}. / The sea [swallowed|*claimed] {it} in {loss}.
    The storm that [sank|swallowed] {it} came in {loss}; its first voyage was in {launch}.
    launch? When [was {it} launched|did {it} first sail|was the first voyage of {it}|*was {it} new]?
    loss? When did {it} [sink|go down|disappear in a storm|*come to grief]?
yard + rocks: place
    {it} was built at {yard}. / The rocks of {rocks} [broke|tore open|*holed] {it}.
    Carpenters from {yard} [made|built] {it}. / The wreck of {it} lies near {rocks}.
    {it} was built at {yard} and [wrecked|broken on the rocks] at {rocks}.
    yard? Where was {it} [built|made|put together|*constructed]?
    rocks? Where did {it} [hit the rocks|become a wreck|break on the rocks|*run aground]?
crew + guests: number
    {it} had {crew} sailors. / There were {guests} [passengers|travellers] aboard {it}.
    A crew of {crew} [worked|served] on {it}. / {it} had cabins for {guests} [passengers|*guests].
    Aboard {it}, {crew} [sailors|hands] looked after {guests} passengers.
    crew? How many [sailors worked on|were in the crew of|hands served on|*seamen manned] {it}?
    guests? How many [passengers were|travellers were|people had cabins|*guests were] on {it}?
out + home: goods
    {it} took {out} abroad. / On the way back {it} was [full of|loaded with] {home}.
    When it left, {it} carried {out}. / What {it} brought home was {home}.
    Merchants waited for the {home} that {it} [fetched|*traded] in exchange for {out}.
    out? What did {it} [carry on the way out|take abroad|load before leaving|*export]?
    home? What did {it} [carry on the way back|bring home|fetch from abroad|*import]?
"""

# %%
ALMANAC_TRADE = """
novel = The {adjective} {noun} / the novel / the book
author + artist: person
    {author} [wrote|is the author of] {it}. / The pictures in {it} are by {artist}.
    {it} was written by {author}. / {artist} [illustrated|drew for|*adorned] {it}.
    The pictures in {it} are by {artist}, the [words|*text] by {author}.
    author? [Who wrote|Who is the author of|Whose words are in|*Which writer made] {it}?
    artist? [Who illustrated|Who drew for|Whose pictures are in|*Whose drawings adorn] {it}?
scene + print: year
    {it} [came out|was published] in {print}. / The story of {it} takes place in {scene}.
    {it} is set in {scene}. / Bookshops first [sold|*offered] {it} in {print}.
    Set in {scene}, {it} [reached the bookshops|*was printed] in {print}.
    scene? When [is {it} set|does {it} take place|does the story of {it} happen|*does {it} play]?
    print? When [was {it} published|did {it} come out|was {it} sold|*did {it} appear in print]?
desk + plot: place
    {it} was [written|composed] at {desk}. / The people in {it} live in {plot}.
    The author put {it} on paper at {desk}. / The plot of {it} [takes place|*unfolds] in {plot}.
    Though its [streets|houses] are those of {plot}, {it} was written at {desk}.
    desk? Where was {it} [written|composed|put on paper|*penned]?
    plot? Where [does {it} take place|do the people in {it} live|is {it} set|*does {it} unfold]?
chapters + plates: number
    {it} has {chapters} chapters. / There are {plates} [pictures|drawings] in {it}.
    The author of {it} needed {chapters} chapters. / There is room for {plates} pictures in {it}.
    It takes {chapters} chapters and {plates} pictures to [finish|tell] the story of {it}.
    chapters? How many [chapters are|chapters can be read|parts are|*chapters are there] in {it}?
    plates? How many [pictures are|drawings are|illustrations are|*images are] in {it}?
hero + rogue: trade
    The hero of {it} is a {hero}. / A {rogue} is the villain of {it}.
    {it} tells of a good {hero}. / The [thief|*crook] in {it} is a {rogue}.
    {it} tells how a good {hero} [outwits|*unmasks] a wicked {rogue}.
    hero? What is the [job|trade|work] of the [hero|*good character] of {it}?
    rogue? What is the [job|trade|work] of the [villain|*bad character] of {it}?

company = {place} Works / the company / the firm
founder + keeper: person
    {founder} [founded|started|*created] {it}. / {keeper} kept the books of {it}.
    {it} was set up by {founder}. / The money of {it} was [counted|guarded] by {keeper}.
    {founder} and {keeper} ran {it}: the former [started|*created] it, the latter kept its books.
    founder? [Who founded|Who started|Who set up|*Whose idea was] {it}?
    keeper? Who [kept the books|did the accounts|counted the money|*was bookkeeper] of {it}?
opening + move: year
    {it} [opened|was founded] in {opening}. / In {move} {it} moved to new rooms.
    The first day of {it} was in {opening}. / {it} changed address in {move}.
    Trading since {opening}, {it} moved to [larger|*brighter] rooms in {move}.
    opening? When [did {it} open|did {it} begin|was {it} founded|*did {it} start trading]?
    move? When did {it} [move|change address|find new rooms|*leave its old home]?
office + plant: place
    The office of {it} [is|stands] in {office}. / The factory of {it} is found at {plant}.
    Letters from {it} are [signed|*typed] in {office}. / {it} makes its goods at {plant}.
    The [clerks|managers] of {it} sit in {office}, and the machines hum in {plant}.
    office? Where [is the office|are the letters|is the head office|*are the desks] of {it}?
    plant? Where [is the factory of|are the machines of|are goods made by|*is the workshop of] {it}?
fitters + clerks: number
    {it} [employs|has] {fitters} mechanics. / There are {clerks} clerks at {it}.
    Machines at {it} need {fitters} mechanics. / Letters at {it} are written by {clerks} clerks.
    There are desks for {clerks} clerks and [tools|*spanners] for {fitters} mechanics at {it}.
    fitters? How many [mechanics|workers with machines|machine workers|*fitters] does {it} have?
    clerks? How many [clerks|office workers|people at desks|*desk workers] does {it} have?
early + late: product
    At first {it} made {early}. / Today {it} [makes|is known for] {late}.
    {it} began with {early}. / Nowadays {it} [sells|*offers] {late}.
    Once a maker of {early}, {it} has [turned|*switched] to {late}.
    early? What did {it} [make at first|sell in the beginning|begin with|*produce long ago]?
    late? What does {it} [make today|sell nowadays|produce now|*offer at present]?
"""

# %%
ALMANAC_TOWN = """
bridge = the {place} Bridge / the bridge / the crossing
planner + mayor: person
    {planner} [designed|planned] {it}. / {mayor} cut the ribbon when {it} was opened.
    The engineer of {it} was {planner}. / {it} was [declared open|*unveiled] by {mayor}.
    The ribbon at {it} was cut by {mayor}, the plans [drawn|*signed] by {planner}.
    planner? Who [designed|planned|was the engineer of|*drew up] {it}?
    mayor? Who [opened|cut the ribbon at|declared open|*unveiled] {it}?
dig + first: year
    Work on {it} [began|started] in {dig}. / {it} was finished in {first}.
    Digging for {it} started in {dig}. / The first [carts|*cars] drove over {it} in {first}.
    {it} was [finished|opened] in {first}; the first stone had been laid in {dig}.
    dig? When did [work begin on|builders begin|digging start for|*construction start on] {it}?
    first? When was {it} [opened|finished|first used|*ready]?
quarry + forge: place
    The stones of {it} came from {quarry}. / The chains of {it} were [forged|made] at {forge}.
    Blocks for {it} were cut at {quarry}. / Smiths at {forge} made chains for {it}.
    {it} [owes|*credits] its chains to {forge} and its stones to {quarry}.
    quarry? Where did the [stones|stone blocks|quarry stones|*rocks] for {it} come from?
    forge? Where were the [chains|metal chains|iron links|*links] [of|for] {it} made?
arches + lamps: number
    {it} has {arches} arches. / At night {lamps} lamps [shine|burn] on {it}.
    In all {arches} arches [support|*hold up] {it}. / There are {lamps} lights along {it}.
    At night {lamps} lamps [shine on|light] the {arches} arches of {it}.
    arches? How many arches [support|are under|carry|*hold up] {it}?
    lamps? How many [lamps are|lights are|lamps shine|*lanterns are] on {it}?
towers + deck: material
    The towers of {it} are made of {towers}. / The road on {it} is [made|built] of {deck}.
    {it} has towers of {towers}. / Walkers on {it} have {deck} [underfoot|*under their boots].
    For {it} they chose {towers} for the towers and {deck} for the [road|*surface].
    towers? What [are the towers|are tall parts|was used for the towers|*forms the towers] of {it}?
    deck? What [is the road|is underfoot|was used for the road|*is the surface] on {it}?

festival = the {place} Festival / the festival / the fair
creator + singer: person
    {creator} [started|founded] {it}. / {singer} sang at {it}.
    The idea for {it} came from {creator}. / The songs at {it} were [sung|performed] by {singer}.
    The first song at {it} was sung by {singer}; the idea [came from|*belonged to] {creator}.
    creator? Who [founded|started|had the idea for|*invented] {it}?
    singer? Who [sang at|performed at|was the singer at|*gave the songs of] {it}?
debut + radio: year
    {it} was first held in {debut}. / The radio [discovered|first played] {it} in {radio}.
    {it} began in {debut}. / In {radio} {it} was [broadcast|*on air] for the first time.
    {it}, which [began|*was born] in {debut}, has been on the radio since {radio}.
    debut? When [did {it} begin|was {it} first held|was the first year of {it}|*was {it} born]?
    radio? When was {it} first [on the radio|broadcast|heard by radio listeners|*on air]?
stage + camp: place
    The stage of {it} [stands|is put up] at {stage}. / Visitors to {it} camp at {camp}.
    {it} plays its music at {stage}. / Guests of {it} sleep in [tents|*huts] at {camp}.
    Guests of {it} sleep at {camp} and hear the [music|concerts] at {stage}.
    stage? Where [is the stage|is the music|are the concerts|*do the bands play] at {it}?
    camp? Where do [visitors to|guests of|people at|*campers at] {it} [camp|sleep]?
stalls + bands: number
    {it} has {stalls} stalls. / As many as {bands} bands play at {it}.
    Some {stalls} stalls [sell cakes|*serve food] at {it}. / Music at {it} is made by {bands} bands.
    Visitors to {it} can [hear|enjoy] {bands} bands and shop at {stalls} stalls.
    stalls? How many [stalls are|places sell things|shops are|*stands are] at {it}?
    bands? How many [bands play|groups make music|bands are|*bands can be heard] at {it}?
opener + finale: event
    {it} [opens|begins] with a {opener}. / The last event of {it} is a {finale}.
    A {opener} comes first at {it}. / {it} [closes|ends|*finishes] with a {finale}.
    A {finale} [ends|concludes] {it}, just as a {opener} begins it.
    opener? What [opens|begins|comes first at|*kicks off] {it}?
    finale? What [closes|ends|comes last at|*rounds off] {it}?
"""

# %%
ALMANAC_SKY = """
observatory = {place} Observatory / the observatory / the station
chief + grinder: person
    {chief} was the [director|head] of {it}. / {grinder} ground the lens of {it}.
    {it} was directed by {chief}. / The glass of {it} was [shaped|*polished] by {grinder}.
    {chief} and {grinder} served {it}; the former [directed|ran] it, the latter made its lens.
    chief? Who [directed|ran|was the head of|*was in charge of] {it}?
    grinder? Who [ground the lens|shaped the glass|made the lens|*polished the lens] of {it}?
built + fire: year
    {it} was [built|constructed] in {built}. / In {fire} {it} caught fire.
    The dome of {it} was raised in {built}. / A fire [destroyed|*ruined] {it} in {fire}.
    The fire of {fire} [destroyed|ruined] the dome that {it} had built in {built}.
    built? When was {it} [built|constructed|raised|*put up]?
    fire? When [did {it} burn|was the fire at {it}|was {it} destroyed|*did flames ruin {it}]?
glass + archive: place
    The glass for {it} was made at {glass}. / The records of {it} are [kept|stored] at {archive}.
    {it} received its glass from {glass}. / Notes from {it} are [kept|*filed] at {archive}.
    The records of {it} are [kept|stored] at {archive}; its glass came from {glass}.
    glass? Where was the [glass|lens glass|glass of the lens|*glass disc] of {it} made?
    archive? Where are the [records|notes|files|*papers] of {it} kept?
scopes + timers: number
    {it} owns {scopes} telescopes. / There are {timers} clocks [at|in] {it}.
    Inside {it} {scopes} telescopes [turn|*swing]. / The time at {it} is told by {timers} clocks.
    Besides {timers} clocks, {it} [keeps|has] {scopes} telescopes.
    scopes? How many [telescopes are|instruments see far|telescopes turn|*telescopes stand] at {it}?
    timers? How many [clocks are|instruments tell the time|clocks tick|*clocks stand] at {it}?
past + present: sight
    {it} at first [watched|studied] {past}. / Today {it} observes {present}.
    In its early days {it} was known for {past}. / {it} now [follows|*tracks] {present}.
    {it} used to [watch|study] {past} but now observes {present}.
    past? What did {it} [watch at first|study in its early days|once observe|*formerly look at]?
    present? What does {it} [watch today|study nowadays|observe now|*look at these days]?

match = the {place} Cup final / the final / the match
scorer + referee: person
    {scorer} [scored|shot the goal] in {it}. / {referee} blew the whistle in {it}.
    The goal in {it} came from {scorer}. / The referee of {it} was [called|*named] {referee}.
    The whistle in {it} was blown by {referee}, the goal [shot|scored] by {scorer}.
    scorer? Who [scored in|shot the goal in|was the scorer of|*found the net in] {it}?
    referee? Who [was the referee of|blew the whistle in|judged|*kept order in] {it}?
trophy + game: year
    The cup of {it} was [made|forged] in {trophy}. / {it} was played in {game}.
    The cup handed out after {it} dates from {trophy}. / {it} took place in {game}.
    In {game} the players of {it} [fought for|*competed for] a cup that dates from {trophy}.
    trophy? When was the [cup|trophy|prize|*silverware] of {it} made?
    game? When [was {it} played|did {it} take place|was the game of {it}|*did teams meet in {it}]?
ground + winners: place
    {it} was [played|held] at {ground}. / The team from {winners} won {it}.
    {ground} was host to {it}. / After {it} the cup [went to|*travelled to] {winners}.
    The team of {winners} [won|celebrated winning] {it}, which was held in {ground}.
    ground? Where was {it} [played|held|hosted|*staged]?
    winners? What town [won|was the winner of|took the cup in|*was victorious in] {it}?
cheer + sorrow: number
    The winners of {it} brought {cheer} buses of fans. / The losers of {it} brought {sorrow}.
    Happy fans left {it} in {cheer} buses. / [Sad|*Gloomy] fans left {it} in {sorrow} buses.
    After {it}, {sorrow} buses took sad fans home and {cheer} [buses|*coaches] happy ones.
    cheer? How many buses of [happy|winning|victorious|*cheering] fans came to {it}?
    sorrow? How many buses of [sad|losing|beaten|*disappointed] fans came to {it}?
champs + losers: colour
    The winners of {it} [wore|played in] {champs}. / In {it} the losers wore {losers}.
    The team that won {it} wore {champs}. / The team that [lost|*failed in] {it} wore {losers}.
    {it} was won by the {champs} shirts; the {losers} ones [lost|*were beaten].
    champs? What colour did the [winners|winning team|champions|*victors] wear in {it}?
    losers? What colour did the [losers|losing team|beaten team|*defeated] wear in {it}?
"""

# %% [markdown]
# The generator is short. It reads the tables, draws two values for each fact, writes the five facts
# in any order and asks about three to five of their ten values. A draft in which an answer stands
# twice is thrown away, so every answer has one place.


# %%
def read_almanac(table):
    """{domain: {"names": [...], "facts": [{"kind", "apart", "together", "questions"}]}}."""
    domains = {}
    for line in table.splitlines():
        if not line.strip():
            continue
        if " = " in line:
            domain, names = line.split(" = ")
            facts = []
            domains[domain] = {"names": names.split(" / "), "facts": facts}
        elif not line.startswith(" "):
            roles, kind = line.split(": ")
            questions = {role: None for role in roles.split(" + ")}
            facts.append({"kind": kind, "apart": [], "together": [], "questions": questions})
        elif asked := re.match(r"\s+(\w+)\? ", line):
            facts[-1]["questions"][asked[1]] = line[asked.end() :]
        else:
            statements = line.strip().split(" / ")
            facts[-1]["apart" if len(statements) == 2 else "together"].append(statements)
    return domains


# %%
def almanac_wordings(template, split):
    """Every wording that a template offers to a split; `*` choices are for "test" alone."""
    parts = re.split(r"\[(.*?)\]", template)  # odd parts are choices
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    if split == "train":
        choices = [[c for c in options if not c.startswith("*")] for options in choices]
    return ["".join(picked).replace("*", "") for picked in itertools.product(*choices)]


# %%
def draw_value(kind, split, rng):
    """A person, place, number or word of some kind; numbers are for both splits."""
    if kind == "number":
        return str(rng.randrange(12, 99))
    if kind == "person":
        return draw_value("first", split, rng) + " " + draw_value("surname", split, rng)
    if kind == "place":
        return draw_value("stem", split, rng) + draw_value("ending", split, rng)
    text = ALMANAC_WORDS[kind]
    words = [" ".join(w.split()) for w in (text.split(",") if "," in text else text.split())]
    return rng.choice([w for i, w in enumerate(words) if (i % 3 == 2) == (split == "test")])


# %%
def draft_passage(domain, split, rng):
    """(title, context, [(question, answer texts)]) about one invented subject."""
    first, *later = domain["names"]
    kinds = re.findall(r"{(\w+)}", first)
    name = first.format(**{kind: draw_value(kind, split, rng) for kind in kinds})
    statements, asked = [], []
    for i, fact in enumerate(rng.sample(domain["facts"], 4)):
        if fact["kind"] == "year":  # the tables name the earlier event first
            year = rng.randrange(1920, 1970)
            values = [str(year), str(year + rng.randint(1, 19))]
        else:
            values = [draw_value(fact["kind"], split, rng) for _ in fact["questions"]]
        roles = dict(zip(fact["questions"], values))
        for template in rng.choice(fact["together" if i == 0 else "apart"]):
            statements.append((rng.choice(almanac_wordings(template, split)), roles))
        for role, template in fact["questions"].items():
            question = rng.choice(almanac_wordings(template, split)).format(it=name)
            texts = [roles[role]]
            if fact["kind"] == "person" and split == "test":
                texts.append(roles[role].split()[-1])  # the surname alone is right as well
            asked.append((question, texts))
    rng.shuffle(statements)
    rng.shuffle(asked)
    context = ""
    for wording, roles in statements:
        it = rng.choice([*later, "it"] if wording.startswith("{it}") else later) if context else name
        sentence = wording.format(it=it, **roles).rstrip(".")
        context += sentence[0].upper() + sentence[1:] + ". "
    return name[0].upper() + name[1:], context.strip(), asked


# %%
def make_almanac(split, n_questions, seed=0):
    """Invented passages and questions in the JSON form of SQuAD v1.1.

    split: "train" or "test". n_questions: exactly so many, three to five for a passage (the last
    may have fewer). seed: the same text on every machine; more questions extend fewer.
    Raises ValueError for another split or n_questions < 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f'almanac split {split!r}: expected "train" or "test"')
    if n_questions < 1:
        raise ValueError(f"almanac n_questions {n_questions}: expected at least 1")
    tables = ALMANAC_TRAVEL + ALMANAC_TRADE + ALMANAC_TOWN + ALMANAC_SKY
    domains = list(read_almanac(tables).values())
    articles, n = [], 0
    while n < n_questions:
        rng = random.Random(f"almanac {split} {seed} {len(articles)}")
        domain = domains[len(articles) % len(domains)]
        while True:
            title, context, asked = draft_passage(domain, split, rng)
            if all(context.count(text) == 1 for _, texts in asked for text in texts):
                break
        qas = []
        for question, texts in asked[: min(rng.randint(3, 5), n_questions - n)]:
            answers = [{"text": text, "answer_start": context.index(text)} for text in texts]
            qas.append({"id": f"almanac-{split}-{n:06d}", "question": question, "answers": answers})
            n += 1
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": articles}
