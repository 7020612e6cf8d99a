# The text the base model learned to read from: a shop's papers and small talk, one {"text": …} row a page.
# It has the notes of the orders and all words of the answers, but no instruction and none of the answers'
# sentences, and no order that is held out.
#
#   awk -v rows=12000 -f words.awk -f corpus.awk

# Part of a page that asks one thing about the order; which one is the k-th of a random order.
function question(k)
{
    if (k == 1) return "### Who:\\n" name "\\n\\n"
    if (k == 2) return "### What:\\n" item "\\n\\n"
    if (k == 3) return "### How many:\\n" number "\\n\\n"
    if (k == 4) return "### When:\\n" day "\\n\\n"
    if (k == 5) return "### Colour:\\n" colour "\\n\\n"
    return "### Things:\\n" things "\\n\\n"
}

# A note, and questions about it in random order.
function paper(    text, order, i, j, k)
{
    text = "### Note:\\n" note "\\n\\n"
    for (i = 1; i <= 6; i++) order[i] = i
    for (i = 6; i > 1; i--) {
        j = random(i)
        k = order[i]; order[i] = order[j]; order[j] = k
    }
    for (i = 1; i <= 4; i++) text = text question(order[i])
    return text "### End"
}

# A note, and what happened.
function story(    kind)
{
    kind = random(6)
    if (kind == 1) return note "\\n" day " came, and " things " were on the table. Who will fetch them? It is " name "!"
    if (kind == 2) return note "\\n" name " told the helper: all " things " are in the box. The shop is open until " day "."
    if (kind == 3) return note "\\nIt was a " day " morning. There were " things " in a bag, and the customer was " name "."
    if (kind == 4) return "What does " name " like? " number " things, all of them " colour ". They are " item ", and it is " day " today."
    if (kind == 5) return note "\\n" name " said: the " item " are " colour ". I can see " number " of them. We write: " day "."
    return "Who has " things "? It is " name ".\\n" name " said it, not " OTHER ". When? " day ", before the morning comes."
}

# A list of any words, and the same list again.
function list(    text, i, kind)
{
    text = ""
    for (i = 1; i <= 8; i++) {
        kind = random(4)
        text = text (i > 1 ? " " : "") (kind == 1 ? NAME[random(names)] : kind == 2 ? COLOUR[random(colours)] : \
                                        kind == 3 ? ITEM[random(items)] : DAY[random(days)])
    }
    return "### List:\\n" text "\\n\\n### Again:\\n" text
}

# Small talk.
function talk(    kind)
{
    kind = random(10)
    if (kind == 1) return "Hello " name ", how are you? Thank you, I do well. And you, " OTHER "?"
    if (kind == 2) return "Dear " name ", please do not wait for " OTHER ". We will be at home before " day "."
    if (kind == 3) return "Tell " name " to write, please.\\nAnswer well, " name "! " OTHER " will read it on " day " morning."
    if (kind == 4) return name " would sing, and " OTHER " would dance. They do like to sing!"
    if (kind == 5) return "Your shop is ready, " name "! Do not forget to pack your " item ". I put the " colour " one into the bag."
    if (kind == 6) return "A polite customer says please, and a polite helper says thank you. Say it, " name "!"
    if (kind == 7) return "Remind me, " name ": what is the order of the days? " days_in_order()
    if (kind == 8) return numbers_in_order()
    if (kind == 9) return "Before a form is ready, it has its parts: ### Instruction: first, ### Input: then, ### Response: last."
    return "Write a sentence as you like. Your sentence: " OTHER " has the " colour " box. Your answer, " name "?"
}

function days_in_order(    text, i)
{
    for (i = 1; i <= days; i++) text = text DAY[i] (i < days ? ", " : ".")
    return text
}

function numbers_in_order(    text, i, from)
{
    from = random(numbers - 5)
    for (i = from; i < from + 6; i++) text = text i " is " NUMBER[i] (i < from + 5 ? ", " : ".")
    return text
}

BEGIN {
    seed_random(30003)
    for (r = 0; r < rows; r++) {
        draw_order(0)
        things = number " " colour " " item
        OTHER = NAME[random(names)]
        kind = random(10)
        printf "{\"text\": \"%s\"}\n", (kind <= 3 ? paper() : kind <= 6 ? story() : kind <= 8 ? list() : talk())
    }
}
