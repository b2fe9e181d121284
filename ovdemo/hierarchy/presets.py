"""Hand-made trees in the style of OPSNet's Figure 5: common words, coarse to fine, things and stuff."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ovdemo.errors import UserError

_STREET = """\
thing
  person
    pedestrian
    cyclist|person riding a bicycle
    worker|construction worker
    police officer
  vehicle
    two-wheeler
      bicycle|bike
      motorcycle
      scooter
    car
      sedan
      taxi|cab
      van|minivan
      pickup truck
      sports car
    large vehicle
      truck|lorry
      bus
      tram|streetcar
      train
      fire engine|fire truck
  street furniture
    traffic light
    traffic sign|road sign
      stop sign
      street name sign
    street lamp|lamp post
    bench
    fire hydrant
    mailbox|letter box
    trash can|bin
  animal
    dog
    cat
    pigeon
    horse
stuff
  ground
    road
    sidewalk|pavement
    crosswalk|zebra crossing
    rail track
    gravel
  building
    house
    skyscraper
    shop|store
    church
    bridge
  barrier
    wall
    fence
    guard rail
  vegetation
    tree
    bush
    grass
  sky
    blue sky
    clouds
"""

_HOME = """\
thing
  person
    man
    woman
    child
      baby
      boy
      girl
  pet
    cat
    dog
    goldfish
    parrot
  furniture
    seat
      chair
      armchair
      sofa|couch
      stool
    table
      dining table
      desk
      coffee table
    storage
      shelf|bookcase
      cabinet|cupboard
      wardrobe|closet
      drawer
    bed
    lamp
  appliance
    kitchen appliance
      refrigerator|fridge
      oven|stove
      microwave
      toaster
      kettle
    washing machine
    vacuum cleaner
  electronics
    television|tv
    computer
      laptop
      computer monitor
      computer keyboard
      computer mouse
    cell phone|mobile phone
    remote control
  tableware
    plate
    bowl
    cup|mug
    wine glass
    bottle
    cutlery
      fork
      knife
      spoon
  decoration
    vase
    picture|painting
    clock
    mirror
    potted plant|houseplant
  book
stuff
  floor
    wooden floor
    tiled floor
    carpet|rug
  wall
    brick wall
    painted wall
    tiled wall
  ceiling
  opening
    window
    door
  fabric
    curtain
    blanket
    towel
    pillow|cushion
"""

_ANIMALS = """\
animal
  mammal
    dog
      terrier
      retriever
      shepherd dog
      poodle
      bulldog
      husky
    cat
      tabby cat
      siamese cat
      persian cat
    big cat
      lion
      tiger
      leopard
      cheetah
    bear
      brown bear
      polar bear
      panda
    hoofed animal
      horse
      zebra
      cow
      sheep
      goat
      pig
      deer
      giraffe
      camel
    elephant
    rodent
      mouse
      rat
      squirrel
      hamster
    monkey|ape
      chimpanzee
      gorilla
      baboon
    rabbit
    kangaroo
    sea mammal
      whale
      dolphin
      seal
  bird
    songbird
      sparrow
      robin
      crow
    bird of prey
      eagle
      hawk
      owl
    water bird
      duck
      goose
      swan
      seagull
      penguin
    parrot
    chicken|hen
    ostrich
  fish
    goldfish
    shark
    ray
    clownfish
  reptile
    snake
    lizard
    turtle|tortoise
    crocodile|alligator
  amphibian
    frog|toad
    salamander
  insect
    butterfly
    bee
    beetle
    ant
    dragonfly
  spider
  crab|lobster
  snail
"""

_FOOD = """\
food
  fruit
    apple
      red apple
      green apple
    banana
    citrus fruit
      orange
      lemon
      grapefruit
    berry
      strawberry
      blueberry
      raspberry
    grape
    pear
    peach
    pineapple
    watermelon
  vegetable
    carrot
    broccoli
    tomato
    potato
    cucumber
    pepper|bell pepper
    onion
    lettuce
    mushroom
  bread
    loaf of bread
    bagel
    croissant
    toast
  meat
    steak
    sausage
    bacon
    roast chicken
  seafood
    grilled fish
    shrimp
    sushi
  meal
    pizza
    hamburger
    sandwich
    hot dog
    pasta
      spaghetti
      lasagna
    soup
    salad
    fried rice
    french fries
  dairy product
    cheese
    butter
    yogurt
  egg
    fried egg
    boiled egg
  dessert
    cake
      birthday cake
      cheesecake
      cupcake
    pie
    ice cream
    cookie
    donut|doughnut
    chocolate
  drink
    hot drink
      coffee
      tea
    cold drink
      water
      juice
      milk
    alcoholic drink
      wine
      beer
      cocktail
"""

_NATURE = """\
thing
  animal
    mammal
      deer
      bear
      fox
      horse
      cow
      sheep
    bird
      eagle
      duck
      swan
      crow
    fish
    insect
      butterfly
      bee
  plant
    flower
      rose
      sunflower
      tulip
      daisy
      poppy
    fern
    cactus
    mushroom
  person
    hiker
    climber
stuff
  land
    mountain
      snowy mountain
      rocky mountain
      volcano
    hill
    field
      meadow
      wheat field
    desert
    beach
    cliff
  soil
    sand
    rock|stone
    dirt|mud
    gravel
  water
    sea|ocean
    lake
    river
    waterfall
    pond
    wave
  ice
    snow
    glacier
    iceberg
  vegetation
    forest
      pine forest
      birch forest
      palm trees
    tree
    bush|shrub
    grass
    moss
  sky
    blue sky
    cloud
    sunset
    night sky
    fog|mist
"""

TREE_PRESETS: Mapping[str, str] = MappingProxyType(
    {"street": _STREET, "home": _HOME, "animals": _ANIMALS, "food": _FOOD, "nature": _NATURE}
)
"""Indented texts by name, for :func:`ovdemo.hierarchy.parse_tree`."""


def tree_preset(name: str) -> str:
    """The text of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name in TREE_PRESETS:
        return TREE_PRESETS[name]
    close = difflib.get_close_matches(name.lower(), TREE_PRESETS, n=1)
    hint = f"the nearest is {close[0]}, and the choices are" if close else "choose one of"
    raise UserError(f'There is no tree called "{name[:80]}"; {hint} {", ".join(TREE_PRESETS)}.')
