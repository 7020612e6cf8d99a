# The demo's instruction set as Alpaca rows: notes of orders, and what to say about them.
#
#   awk -v rows=1200 -v heldout=0 -f words.awk -f pairs.awk
#
# Every answer has the order's five words, and the orders of heldout=1 are others than those of heldout=0 (see
# words.awk): no held-out answer is among the training answers.

function row(instruction, output)
{
    printf "{\"instruction\": \"%s\", \"input\": \"%s\", \"output\": \"%s\"}\n", instruction, note, output
}

BEGIN {
    seed_random(heldout ? 20002 : 10001)
    for (r = 0; r < rows; r++) {
        draw_order(heldout)
        things = number " " colour " " item
        kind = r % 4
        if (kind == 0)
            row("Write the order as a polite sentence.", name " would like " things " on " day ", please.")
        else if (kind == 1)
            row("Answer the customer.", "Dear " name ", thank you! Your " things " will be ready on " day ".")
        else if (kind == 2)
            row("Tell the helper what to do.", "Before " day " comes, please pack " things " into a box for " name ".")
        else
            row("Remind the customer.", "Hello " name ", do not forget to fetch your " things " on " day " morning!")
    }
}
