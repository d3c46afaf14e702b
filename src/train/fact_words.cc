// The vocabulary of synthetic facts. kTrain and kHeldOut share no word and no syllable.
#include <algorithm>

#include "train/fact_lists.h"

namespace sluice {
namespace {

// The words of a text, split at spaces.
std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// Names of people and places.
void AddTrainNames(FactWords& words) {
  words.syllables = Words(
      "ba bel ben bor bra bren cal car ced cor cla dal dan dar del den dol dra el em er fal fen fer fin flo "
      "gal gar gil glen gra hal ham har hel hol is jor jun ka kel ker kin la lan lar len lin lo lor lun ma "
      "mal "
      "mar mel mer mi mon mor na nel ner nor o ol or pal per pin por ra ral ran rel ren ri rin ro ros sa sal "
      "sel sen ser sin sol stan ta tal tam tel ter tin to tor tri u ul va val ver vin vor wal wen wil win");
  words.first_names = Words(
      "Anna Adam Alice Albert Amir Andre Arthur Beth Boris Bruno Carla Carlos Clara Colin Dana Daniel David "
      "Diana "
      "Edgar Edith Elena Elias Emil Emma Erik Esther Eva Felix Fiona Frank Frida George Grace Greta Hanna "
      "Harold "
      "Hassan Helen Henry Hugo Ian Ida Igor Irene Ivan Jack James Jane Jonas Joseph Julia Karim Karl Kate "
      "Kenji "
      "Laura Leo Lily Linda Lucas Maria Mark Martin Mary Max Mei Mina Nadia Nina Noah Nora Olga Oliver Omar "
      "Oscar "
      "Pablo Paul Peter Petra Priya Ralph Rita Robert Rosa Ruth Samuel Sara Simon Sofia Stefan Susan Tara "
      "Thomas "
      "Tom Uma Vera Victor Walter Wanda William Yusuf Zoe");
  words.surnames = Words(
      "Adler Baker Barnes Becker Bell Berg Bishop Black Brandt Brook Brown Burke Carter Chen Clark Cole Cook "
      "Cruz "
      "Dale Diaz Dixon Doyle Dunn Ellis Evans Farmer Finch Fisher Fox Frost Garcia Gibson Gray Green Hale "
      "Harris "
      "Hart Hayes Hill Holt Hughes Hunt Irving Jensen Johnson Kaur Keller Khan King Klein Lake Lane Larsen "
      "Lee "
      "Lopez Lowe Marsh Mason Meyer Miller Moore Morgan Nash Nelson Novak Olsen Park Patel Pierce Pope Quinn "
      "Ray "
      "Reed Rice Rivera Rose Ross Russo Sanders Sato Shaw Silva Singh Smith Snow Stone Tanner Taylor Torres "
      "Turner "
      "Vance Wagner Walsh Ward Weber West White Wolf Wong Wood Young");
  words.cities = Words(
      "Amsterdam Athens Berlin Bergen Boston Bristol Brussels Cairo Chicago Dallas Delhi Denver Dover Dublin "
      "Geneva "
      "Genoa Hamburg Havana Helsinki Istanbul Kyoto Lagos Leeds Lima Lisbon London Madrid Malta Manila Milan "
      "Montreal Moscow Munich Naples Oslo Oxford Paris Perth Prague Quebec Rome Seattle Seoul Sydney Tokyo "
      "Toronto "
      "Turin Venice Vienna Warsaw York Zurich");
}

FactWords TrainWords() {
  FactWords words;
  AddTrainNames(words);
  words.adjectives = Words(
      "amber ancient bold brave bright broken calm clever cold crimson dark distant early eastern empty "
      "eternal "
      "famous fast final gentle golden grand happy hidden hollow honest humble iron last late little lonely "
      "long "
      "lost lucky misty modern narrow noble northern old open patient pale proud quiet rapid red royal "
      "sacred "
      "secret sharp short silent silver simple small solid southern steady strong sunny sweet swift tall "
      "western "
      "wide wild winter wise");
  words.nouns = Words(
      "anchor apple arrow autumn badger banner basin beacon bear bell birch bishop bridge canyon castle "
      "cedar cloud "
      "comet coral crown desert dolphin dragon eagle echo ember falcon feather fern field flame forest "
      "fountain "
      "garden glacier harbour hawk hazel heron hill horizon island ivy jade journey lantern lark leaf lion "
      "maple "
      "meadow meteor mirror mountain oak ocean orchard orchid otter owl panther pearl pilot pine planet "
      "prairie "
      "raven reef ribbon river robin rose salmon shadow shield sparrow spring star stone storm summit "
      "sunrise "
      "thunder tiger torch tower valley violin voyage walnut water wave whale willow wind wolf");
  words.colours = Words(
      "red blue green yellow white black grey brown orange purple pink silver gold beige violet "
      "ivory crimson olive");
  words.instruments = Words(
      "piano violin flute cello guitar trumpet harp clarinet trombone drum oboe accordion "
      "organ saxophone banjo");
  words.animals = Words(
      "dog cat horse rabbit fox wolf bear lion tiger owl eagle dolphin whale penguin elephant "
      "camel deer goat parrot turtle frog swan");
  words.foods = Words(
      "bread rice soup cheese apples noodles fish potatoes chocolate honey pancakes beans salad "
      "mushrooms cherries pasta olives pears");
  words.materials = Words(
      "steel iron copper glass oak granite concrete leather brass marble bronze paper wool clay "
      "aluminium pine rubber");
  words.languages = Words(
      "English French German Spanish Italian Russian Arabic Chinese Japanese Turkish Greek Polish "
      "Dutch Swedish Hindi Korean");
  return words;
}

FactWords HeldOutWords() {
  FactWords words;
  words.syllables = Words(
      "ab bri cho chu cy dex dru dwi ev fro gwen hux ib jax jes ko kru lyd mox myr ny os pell phi quil qua "
      "rhys rup "
      "sca shi sky squa thra thel ty ush vex vy wex wy xan yar yel yo zan zeb zor zu");
  words.first_names = Words(
      "Agnes Bernard Celia Conrad Dorothy Douglas Edwin Flora Gustav Hilda Isaac Jasper Kirsten Lionel Mabel "
      "Nigel "
      "Ottilie Percy Quentin Rowena Sigrid Theodore Ursula Vincent Winifred Xenia Yolanda Zachary Imogen "
      "Tobias");
  words.surnames = Words(
      "Ashworth Blackwood Cartwright Drummond Eastwood Fairbanks Goldberg Hawthorne Ingram Jarvis Kowalski "
      "Lindqvist "
      "Mackenzie Nakamura Okafor Pemberton Quigley Rothschild Sutherland Thackeray Underhill Vasquez "
      "Whitfield "
      "Yamamoto Zimmermann Abernathy Cromwell Fitzgerald");
  words.cities = Words(
      "Aberdeen Antwerp Baltimore Bordeaux Cardiff Copenhagen Edinburgh Frankfurt Glasgow Jakarta "
      "Krakow Liverpool Marseille Nairobi Portland Rotterdam Salzburg Stockholm Tangier Valencia");
  words.adjectives = Words(
      "azure blazing curious dusty elegant fearless frozen graceful icy jolly keen luminous mellow "
      "nimble peculiar radiant rustic scarlet stormy tranquil velvet weary zealous");
  words.nouns = Words(
      "albatross antelope boulder candle cascade chestnut compass cypress dagger daisy emerald galleon "
      "gazelle hammer harvest jaguar juniper kestrel ladder magnolia nightingale nutmeg obelisk pebble "
      "pelican pyramid quarry saffron sapphire scepter tulip tundra vineyard walrus windmill zephyr");
  words.colours = Words("turquoise maroon indigo teal lavender khaki magenta");
  words.instruments = Words("bassoon viola mandolin xylophone tuba ukulele");
  words.animals = Words("badger hedgehog giraffe leopard squirrel raven lobster beaver zebra");
  words.foods = Words("asparagus dumplings lentils marmalade pumpkin raspberries sausages walnuts");
  words.materials = Words("titanium slate bamboo cedar limestone porcelain velvet");
  words.languages = Words("Portuguese Finnish Hungarian Swahili Bengali Czech Danish");
  return words;
}

}  // namespace

const FactWords& FactWordsOf(FactSplit split) {
  static const FactWords train = TrainWords();
  static const FactWords held_out = HeldOutWords();
  return split == FactSplit::kTrain ? train : held_out;
}

}  // namespace sluice
