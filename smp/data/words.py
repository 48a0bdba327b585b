"""Word lists and fact tables of the synthetic QA dataset; synthetic.py documents the format."""

SYNTHETIC_WORDS = {
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

# Each table starts with a domain: the first name of a passage's subject, then its later names
# (`{it}`). A fact has two roles and their kind, then two ways to state it in a pair of sentences,
# one way to state it in a single sentence and, for each role, the wordings of its question.
# `[a|b|*c]` is a choice; only the test split uses wordings with a star.
TRAVEL_FACTS = """
expedition = the {place} expedition / the expedition / the party
leader + doctor: person
    {leader} was the leader of {it}. / The doctor of {it} was {doctor}.
    The leader of {it} [was|*was called] {leader}. / {doctor} was the doctor [of|with] {it}.
    The doctor of {it} was {doctor}, [the|*its] leader {leader}.
    leader? Who was [the leader|named leader|at the head|*in command] of {it}?
    doctor? Who [was the doctor of|was the doctor with|treated the sick of|*healed the ill of] {it}?
left + back: year
    {it} set out in {left}. / In {back} {it} [came|was] back home.
    The year in which {it} set out was {left}. / {it} was back home in {back}.
    {it} [set out|*had set out] in {left} and was back home in {back}.
    left? When did {it} [set out|first set out|depart|*leave]?
    back? When [was {it} back home|did {it} come back|did {it} return|*did {it} get home]?
start + winter: place
    The starting point of {it} was {start}. / {it} spent the winter [at|in] {winter}.
    {start} was the starting point of {it}. / {winter} was where {it} spent the winter.
    {it} spent the winter at {winter}, [far|*a long way] from its starting point {start}.
    start? Where [was the starting point of {it}|did {it} start|did {it} begin|*did {it} set off]?
    winter? Where did {it} [spend the winter|winter|rest in the cold months|*avoid the snow]?
men + mules: number
    {it} had {men} men. / There were {mules} mules with {it}.
    There were {men} men in {it}. / {it} [took|*bought] {mules} mules.
    The baggage of {it} was [carried|*borne] by {mules} mules, led by {men} men.
    men? How many [men were in|men had joined|people were in|*persons were in] {it}?
    mules? How many [mules were with|mules went with|animals were with|*beasts were with] {it}?
hope + find: goods
    {it} [was|went] looking for {hope}. / What {it} found was {find}.
    What {it} was looking for was {hope}. / {it} [found|*really found] {find}.
    {it} was looking for {hope} but [found|*only found] {find}.
    hope? What [was {it} looking for|did {it} go looking for|did {it} hope for|*did {it} seek]?
    find? What [did {it} find|was found by {it}|did {it} discover|*did {it} bring to light]?

ship = the {adjective} {bird} / the ship / the vessel
captain + owner: person
    {captain} was the captain of {it}. / The owner of {it} was {owner}.
    The captain of {it} was {captain}. / {owner} was the [owner|*proud owner] of {it}.
    {it} had {captain} [for|as] its captain and {owner} as its owner.
    captain? Who was [the captain|named captain|the skipper|*in command] of {it}?
    owner? [Who was the owner of|Who was named owner of|Who owned|*Whose was] {it}?
launch + loss: year
    {it} was launched in {launch}. / In {loss} {it} was lost [at sea|in a storm].
    In {launch} {it} was launched. / {it} was lost [at sea|*in the fog] in {loss}.
    {it} was launched in {launch} and lost [at sea|*in a gale] in {loss}.
    launch? When was {it} [launched|first launched|new|*seen at its launch]?
    loss? When [was {it} lost|was {it} lost at sea|did {it} sink|*did the sea swallow {it}]?
yard + rocks: place
    {it} was built at {yard}. / The rocks that broke {it} [lie|are] near {rocks}.
    {yard} is where {it} was built. / {it} hit the rocks [near|off] {rocks}.
    {it} was built at {yard} and [hit|*ran onto] the rocks near {rocks}.
    yard? Where was {it} [built|first built|made|*constructed]?
    rocks? Where [did {it} hit the rocks|are the rocks of {it}|did {it} break|*was {it} wrecked]?
crew + guests: number
    {it} had {crew} sailors. / There were {guests} passengers [on|aboard] {it}.
    There were {crew} sailors on {it}. / {it} [carried|*took] {guests} passengers.
    On {it}, {crew} sailors [looked after|*served] {guests} passengers.
    crew? How many [sailors were|sailors worked|crew members were|*seamen were] on {it}?
    guests? How many [passengers were|passengers sailed|travellers were|*guests were] on {it}?
out + home: goods
    {it} left with {out}. / {it} came home with {home}.
    When {it} left, it [carried|held] {out}. / When {it} came home, it [carried|held] {home}.
    {it} left with {out} and came home with {home}[| aboard].
    out? What was on {it} when it [left|first left|went out|*left port]?
    home? What was on {it} when it [came home|at last came home|returned|*came back]?
"""
TRADE_FACTS = """
novel = The {adjective} {noun} / the novel / the book
author + artist: person
    {author} [is|was] the author of {it}. / The pictures in {it} are by {artist}.
    The author of {it} is {author}. / {artist} drew the [pictures|fine pictures] in {it}.
    The pictures in {it} are by {artist}; its author [is|*was] {author}.
    author? Who [is the author of|was the author of|wrote|*is the writer of] {it}?
    artist? Who [drew the pictures in|made the pictures in|illustrated|*was the artist of] {it}?
scene + print: year
    {it} is set in {scene}. / {it} was published in {print}.
    The year {it} is set in is {scene}. / In {print} {it} was [published|first published].
    {it} was published in {print} but [is set|*is really set] in {scene}.
    scene? When [is {it} set|is the story of {it} set|does {it} take place|*does {it} happen]?
    print? When was {it} [published|first published|sold at first|*printed]?
desk + plot: place
    {it} was written [at|in] {desk}. / The people in {it} live in {plot}.
    {desk} is where {it} was written. / {plot} is where the people in {it} [live|*dwell].
    {it} was written at {desk}, but its people live [in|*around] {plot}.
    desk? Where was {it} [written|first written|composed|*penned]?
    plot? Where do the [people|people we meet|characters|*heroes] in {it} live?
chapters + plates: number
    {it} has {chapters} chapters. / There are {plates} pictures in {it}.
    There are {chapters} chapters in {it}. / {it} [has|contains] {plates} pictures.
    {it} [has|*boasts] {chapters} chapters and {plates} pictures.
    chapters? How many [chapters are|chapters appear|parts are|*sections are] in {it}?
    plates? How many [pictures are|pictures appear|drawings are|*illustrations are] in {it}?
hero + rogue: trade
    The hero of {it} is a {hero}. / The villain of {it} is a {rogue}.
    {it} has a {hero} for its hero. / {it} has a {rogue} [for|*as] its villain.
    The hero of {it} is a {hero}[, the| and its] villain a {rogue}.
    hero? What is the [hero's trade|trade of the hero|hero's job|*good man's job] in {it}?
    rogue? What is the [villain's trade|trade of the villain|villain's job|*bad man's job] in {it}?

company = {place} Works / the company / the firm
founder + keeper: person
    {founder} was the founder of {it}. / {keeper} kept the books of {it}.
    The founder of {it} was {founder}. / The books of {it} were kept by {keeper}.
    {founder} was the founder of {it}, [and|*while] {keeper} kept the books.
    founder? Who [was the founder of|was named founder of|began|*set up] {it}?
    keeper? Who [kept the books|had the books|did the accounts|*was the bookkeeper] at {it}?
opening + move: year
    The doors of {it} opened in {opening}. / In {move} {it} [had to|*could] move to new rooms.
    In {opening} {it} opened its doors. / The move of {it} to [new|*larger] rooms came in {move}.
    {it} opened its doors in {opening} and moved to [new|*bigger] rooms in {move}.
    opening? When did {it} [open|open its doors|begin|*start trading]?
    move? When did {it} [move|move to new rooms|get new rooms|*leave for new rooms]?
office + plant: place
    The office of {it} [is|stands] in {office}. / The factory of {it} is in {plant}.
    {it} has its office in {office}. / {it} has its factory [in|at] {plant}.
    {it} has its office in {office} and its factory [in|at] {plant}.
    office? Where [is the office|are the office rooms|are the clerks|*is the paperwork] of {it}?
    plant? Where [is the factory|are the factory halls|are machines|*are the factory gates] of {it}?
fitters + clerks: number
    {it} employs {fitters} mechanics. / There are {clerks} clerks at {it}.
    There are {fitters} mechanics at {it}. / {it} [employs|*pays] {clerks} clerks.
    {it} [employs|has] {clerks} clerks and {fitters} mechanics.
    fitters? How many [mechanics are|mechanics work|engine fitters are|*repair men are] at {it}?
    clerks? How many [clerks are|clerks work|office workers are|*people at desks are] at {it}?
early + late: product
    At first {it} made {early}. / Today {it} makes {late}.
    The goods {it} made at first were {early}. / The goods {it} makes today are {late}.
    At first {it} made {early}[, but today| and today] it makes {late}.
    early? What did {it} [make at first|at first make|make in the beginning|*once make]?
    late? What does {it} [make today|today make|make now|*currently make]?
"""
TOWN_FACTS = """
bridge = the {place} Bridge / the bridge / the crossing
planner + mayor: person
    {planner} was the engineer of {it}. / The mayor who opened {it} was {mayor}.
    The engineer of {it} was {planner}. / {it} was opened by the [mayor|*town's mayor], {mayor}.
    {it} was planned by the engineer {planner} and [opened|*unveiled] by the mayor {mayor}.
    planner? Who [was the engineer of|was named engineer of|designed|*drew the plans of] {it}?
    mayor? Who [was the mayor at|as mayor opened|opened|*cut the ribbon at] {it}?
dig + first: year
    {it} was begun in {dig}. / {it} was finished in {first}.
    In {dig} {it} was [begun|*at last begun]. / In {first} {it} was [finished|*at last finished].
    {it} was begun in {dig} and [finished|at last finished] in {first}.
    dig? When was {it} [begun|first begun|started|*under way]?
    first? When was {it} [finished|at last finished|completed|*ready]?
quarry + forge: place
    The stones of {it} came from {quarry}. / The chains of {it} were made at {forge}.
    {quarry} gave {it} its stones. / {forge} [gave|*sold] {it} its chains.
    {it} has its stones from {quarry} and its chains from {forge}[| as well].
    quarry? Where did the [stones|grey stones|blocks|*rocks] of {it} come from?
    forge? Where did the [chains|long chains|links|*ironwork] of {it} come from?
arches + lamps: number
    {it} has {arches} arches. / There are {lamps} lamps on {it}.
    There are {arches} arches under {it}. / {it} [has|*shines with] {lamps} lamps.
    At night {lamps} lamps [shine on|light] the {arches} arches of {it}.
    arches? How many [arches are under|arches support|arcs are under|*vaults are under] {it}?
    lamps? How many [lamps are on|lamps shine on|lights are on|*lanterns are on] {it}?
towers + deck: material
    The towers of {it} are of {towers}. / The road on {it} is of {deck}.
    {it} has towers of {towers}. / {it} has a [road|*fine road] of {deck}.
    {it} has towers of {towers} and a [road|*narrow road] of {deck}.
    towers? What are the [towers|tall towers|tall parts|*pillars] of {it} made of?
    deck? What is the [road|narrow road|roadway|*surface] of {it} made of?

festival = the {place} Festival / the festival / the fair
creator + singer: person
    {creator} was the founder of {it}. / The singer at {it} was {singer}.
    The founder of {it} was {creator}. / {singer} was the [singer|*famous singer] at {it}.
    {it} [has|had] {creator} for its founder and {singer} for its singer.
    creator? Who [was the founder of|was named founder of|started|*founded] {it}?
    singer? Who [was the singer at|was named singer at|sang at|*sang the songs at] {it}?
debut + radio: year
    {it} was first held in {debut}. / In {radio} {it} was [on the radio|*heard on the radio].
    In {debut} {it} was first held. / {it} came to the radio in {radio}.
    {it} was first held in {debut} and [came|*made its way] to the radio in {radio}.
    debut? When was {it} [first held|held for the first time|begun|*born]?
    radio? When was {it} [on the radio|played on the radio|broadcast|*heard on radios]?
stage + camp: place
    The stage of {it} is at {stage}. / The tents of {it} are at {camp}.
    {it} has its stage at {stage}. / {it} has its tents [at|near] {camp}.
    {it} has its stage at {stage} and its [tents|*many tents] at {camp}.
    stage? Where [is the stage|does the stage stand|is the music|*do bands play] at {it}?
    camp? Where [are the tents|do the tents stand|do guests sleep|*do people camp] at {it}?
stalls + bands: number
    {it} has {stalls} stalls. / There are {bands} bands at {it}.
    There are {stalls} stalls at {it}. / {it} [has|*invites] {bands} bands.
    Visitors to {it} [hear|enjoy] {bands} bands and shop at {stalls} stalls.
    stalls? How many [stalls are|stalls stand|shops are|*market stands are] at {it}?
    bands? How many [bands are|bands play|music groups are|*orchestras are] at {it}?
opener + finale: event
    {it} begins with a {opener}. / {it} ends with a {finale}.
    A {opener} begins {it}. / A {finale} ends {it}.
    {it} begins with a {opener} and ends with a {finale}[| at night].
    opener? What [begins|event begins|opens|*comes first at] {it}?
    finale? What [ends|event ends|closes|*comes last at] {it}?
"""
SKY_FACTS = """
observatory = {place} Observatory / the observatory / the station
chief + grinder: person
    {chief} was the director of {it}. / The lens of {it} was made by {grinder}.
    The director of {it} was {chief}. / {grinder} [made|*ground] the lens of {it}.
    The lens of {it} was made by {grinder}; its director [was|*at that time was] {chief}.
    chief? Who [was the director of|was named director of|directed|*headed] {it}?
    grinder? Who [made the lens|was the lens maker|ground the glass|*polished the glass] of {it}?
built + fire: year
    {it} was built in {built}. / There was a fire at {it} in {fire}.
    In {built} {it} was built. / In {fire} there was a [fire|*great fire] at {it}.
    {it} was built in {built} and [damaged|*ruined] by fire in {fire}.
    built? When was {it} [built|first built|constructed|*put up]?
    fire? When [was the fire|was there fire|did flames rise|*were there flames] at {it}?
glass + archive: place
    The glass of {it} was cast at {glass}. / The records of {it} are kept at {archive}.
    {glass} is where the glass of {it} was cast. / {archive} keeps the records of {it}.
    The records of {it} are [kept|stored] at {archive}; its glass was cast at {glass}.
    glass? Where was the [glass|heavy glass|lens glass|*disc] of {it} cast?
    archive? Where are the [records|old records|notes|*papers] of {it} kept?
scopes + timers: number
    {it} has {scopes} telescopes. / There are {timers} clocks at {it}.
    There are {scopes} telescopes at {it}. / {it} [has|*owns] {timers} clocks.
    Besides {timers} clocks, {it} [keeps|has] {scopes} telescopes.
    scopes? How many [telescopes are|telescopes stand|scopes are|*star instruments are] at {it}?
    timers? How many [clocks are|clocks stand|timepieces are|*clocks tick] at {it}?
past + present: sight
    At first {it} watched {past}. / Today {it} watches {present}.
    What {it} watched at first was {past}. / What {it} watches today is {present}.
    At first {it} watched {past}[, but today| and today] it watches {present}.
    past? What did {it} [watch at first|at first observe|watch in its early days|*once watch]?
    present? What does {it} [watch today|today observe|watch now|*watch nowadays]?

match = the {place} Cup final / the final / the match
scorer + referee: person
    {scorer} scored the goal in {it}. / {referee} was the referee of {it}.
    The goal in {it} was scored by {scorer}. / The referee of {it} [was|*was called] {referee}.
    The goal in {it} was scored by {scorer}[; the| and its] referee was {referee}.
    scorer? Who [scored the goal|scored|shot the goal|*made the goal] in {it}?
    referee? Who [was the referee|was named referee|blew the whistle|*was the judge] in {it}?
trophy + game: year
    The cup of {it} was made in {trophy}. / {it} was played in {game}.
    In {trophy} the cup of {it} was made. / In {game} {it} was [played|*at last played].
    {it} was played in {game} for a cup [made|*forged] in {trophy}.
    trophy? When was the [cup|silver cup|trophy|*prize] of {it} made?
    game? When was {it} [played|at last played|held|*fought out]?
ground + winners: place
    {it} was played at {ground}. / The winners of {it} came from {winners}.
    {ground} is where {it} was played. / {winners} was the home of the winners of {it}.
    {it} was played at {ground}, and the winners came [from|*all the way from] {winners}.
    ground? Where was {it} [played|at last played|held|*staged]?
    winners? Where did the [winners|happy winners|winning team|*victors] of {it} come from?
women + children: number
    There were {women} women watching {it}. / There were {children} children watching {it}.
    There were {women} women at {it}. / [There were|*In came] {children} children at {it}.
    At {it} {women} women and {children} children [were watching|*cheered].
    women? How many [women were|women stood|ladies were|*mothers were] at {it}?
    children? How many [children were|children stood|young people were|*pupils were] at {it}?
champs + losers: colour
    The winners of {it} wore {champs}. / The losers of {it} wore {losers}.
    The colour of the winners of {it} was {champs}. / The losers of {it} were in {losers}.
    In {it} the winners [wore|had] {champs} and the losers {losers}.
    champs? What colour did the [winners|happy winners|winning team|*victors] of {it} wear?
    losers? What colour did the [losers|sad losers|losing team|*beaten team] of {it} wear?
"""
