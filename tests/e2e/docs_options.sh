#!/bin/sh
# docs/options.md and the manual pages have the options of --help, with the same values, defaults and other names,
# and no others.  Prints "ok NAME" or "not ok NAME why", a line for a program (or its mode) and its manual page.
#
# Rows of docs/options.md are "| `--name VALUE` | default | meaning; also `--a`, `--b` |" below a heading
# "## NAME, NAME"; a name is a program, or a program and its mode.  A manual page has ".It Fl -name".
set -u
LC_ALL=C
export LC_ALL

build=${LT_BUILD:-.}
tree=${LT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd -P)}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-options.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# "--name VALUE|default|--a --b" of every option in a --help text.
of_help()
{
    awk '
    function flush() { if (row != "") print row; row = "" }
    /^  --help, --version/ { next }
    /^  --/ { flush(); row = substr($0, 3); next }
    row != "" && /^      / {
        value = ""; also = ""
        if (match($0, / \(default [^)]*\)/)) value = substr($0, RSTART + 10, RLENGTH - 11)
        if (match($0, /; also --.*$/)) {
            also = substr($0, RSTART + 7)
            gsub(/,/, " --", also)
        }
        row = row "|" value "|" also
        flush()
    }
    END { flush() }' "$1"
}

# The same of the tables below the headings that name it; `|` inside a cell is written `\|`.
of_document()
{
    awk -v program="$2" '
    /^## / { wanted = index(", " substr($0, 4) ", ", ", " program ", "); next }
    wanted && /^\| `--/ {
        gsub(/\\\|/, "\001")
        split($0, cell, "|")
        name = cell[2]; value = cell[3]; meaning = cell[4]
        gsub(/[` ]+$|^[` ]+/, "", name); gsub(/[` ]/, "", value)
        also = ""
        if (match(meaning, /; also `--.*$/)) {
            also = substr(meaning, RSTART + 7)
            gsub(/[`,]/, "", also); gsub(/^ +| +$/, "", also)
        }
        row = name "|" value "|" also
        gsub(/\001/, "|", row)
        print row
    }' "$1"
}

# differences A B: what only one of two lists has, in one line.
differences()
{
    sort "$1" >"$tmp/a"
    sort "$2" >"$tmp/b"
    comm -23 "$tmp/a" "$tmp/b" | sed 's/^/missing or different: /'
    comm -13 "$tmp/a" "$tmp/b" | sed 's/^/surplus or different: /'
}

bad=0
# verdict NAME: "ok" when $tmp/found is empty.
verdict()
{
    if [ -s "$tmp/found" ]; then
        cat "$tmp/found"
        printf 'not ok %s: %d differences\n' "$1" "$(wc -l <"$tmp/found")"
        bad=1
    else
        printf 'ok %s\n' "$1"
    fi
}

# The words after a program's name with which --help lists options: its modes, or none.
modes_of()
{
    sed -n '/^Usage: [a-z-]* MODE/,$ s/^  \([a-z][a-z]*\)  .*/\1/p' "$1"
}

for program in "$build"/lora-*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=$(basename "$program")
    "$program" --help >"$tmp/help" 2>&1 || printf '%s --help failed\n' "$name"
    : >"$tmp/all"
    for mode in $(modes_of "$tmp/help") .; do
        if [ "$mode" = . ]; then
            [ ! -s "$tmp/all" ] || continue
            full=$name
        else
            full="$name $mode"
            "$program" "$mode" --help >"$tmp/help" 2>&1
        fi
        of_help "$tmp/help" >"$tmp/want"
        cat "$tmp/want" >>"$tmp/all"
        of_document "$tree/docs/options.md" "$full" >"$tmp/got"
        differences "$tmp/want" "$tmp/got" >"$tmp/found"
        verdict "$full in docs/options.md"
    done
    page=docs/man/$name.1
    sed 's/[ |].*//' "$tmp/all" | sort -u >"$tmp/want"
    sed -n 's/^\.It Fl -\([a-z0-9-]*\).*/--\1/p' "$tree/$page" 2>&1 | grep -vx -e --help -e --version | sort -u >"$tmp/got"
    differences "$tmp/want" "$tmp/got" >"$tmp/found"
    verdict "$name in $page"
done
exit $bad
