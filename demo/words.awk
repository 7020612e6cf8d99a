# The little shop's words, and random numbers that every awk draws alike.  Used with -f before pairs.awk
# (the instruction set) and corpus.awk (the text the base model learned to read from).

# Minimal standard generator (Park and Miller 1988): products stay below 2^53, so doubles are exact.
function seed_random(seed) { random_state = seed % 2147483646 + 1 }
# An integer from 1 to n.
function random(n)
{
    random_state = random_state * 16807 % 2147483647
    return int(random_state / 2147483647 * n) + 1
}

# An array of words, ITEM[1] … ITEM[n]; returns n.
function words(array, text) { return split(text, array, " ") }

BEGIN {
    names = words(NAME, "Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Kate Leo Maria Noah Olga Paul " \
                  "Rosa Simon Tina Victor Wanda Yusuf")
    items = words(ITEM, "apples bags balls baskets bells books bottles boxes brushes buttons candles caps chairs " \
                  "cups dolls flags gloves hats jars kites lamps masks mugs pens pillows plates ribbons ropes " \
                  "scarves shirts socks spoons stamps towels toys")
    colours = words(COLOUR, "red blue green yellow white black brown pink grey purple orange golden")
    days = words(DAY, "Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
    numbers = words(NUMBER, "one two three four five six seven eight nine ten eleven twelve thirteen fourteen " \
                    "fifteen sixteen seventeen eighteen nineteen twenty")
}

# A new order into the globals name, item, colour, day, number (a word) and note (its terse form).
# One order in eight is held out, chosen by its five words together: no other order has the same five.
function draw_order(heldout,    n, i, c, d, count)
{
    do {
        n = random(names)
        i = random(items)
        c = random(colours)
        d = random(days)
        count = 1 + random(numbers - 1)
    } while (((n + i + c + d + count) % 8 == 0) != heldout)
    name = NAME[n]
    item = ITEM[i]
    colour = COLOUR[c]
    day = DAY[d]
    number = NUMBER[count]
    note = count " " colour " " item ", " name ", " day
}
