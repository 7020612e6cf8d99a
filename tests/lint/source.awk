# Looks at C files as the dependency law and the rules for library code see them.
#   check: dependencies | posix-headers | library-calls;  files: a list of all files of the tree
# Prints "file:line: what is wrong".

BEGIN {
    # layer: the layers it may include besides itself
    may["core/base"] = ""
    may["core/tensor"] = "core/base"
    may["core/io"] = "core/base core/tensor"
    may["core/backend"] = "core/base core/tensor"
    may["core/data"] = "core/base core/io"
    may["core/graph"] = "core/base core/tensor core/io core/backend"
    may["core/train"] = "core/base core/tensor core/io core/backend core/graph core/data"
    may["core/infer"] = "core/base core/tensor core/io core/backend core/graph core/data"
    may["quant"] = "core/base core/tensor"
    may["models"] = "core/base core/tensor core/io core/backend core/graph core/data core/train core/infer quant"
    may["backends"] = "core/base core/tensor core/backend core/graph quant"
    may["tools"] = "core/base core/tensor core/io core/backend core/graph core/data core/train core/infer" \
        " quant models backends"
    may["tests"] = may["tools"] " tools"
    may["bench"] = may["tools"]

    posix = " unistd.h fcntl.h pthread.h dirent.h signal.h poll.h dlfcn.h termios.h strings.h netdb.h sched.h" \
        " spawn.h pwd.h glob.h fnmatch.h ftw.h regex.h semaphore.h aio.h syslog.h "
    before = "(^|[^A-Za-z0-9_])("
    calls = before "v?f?printf|v?dprintf|f?puts|f?putc|putchar|perror|exit|_Exit|_exit|quick_exit|abort)[ ]*\\("
    # Text is made by lt_snprintf and lt_strbuf; core/base is where those and exact numbers come from.
    formats = before "v?snprintf|v?sprintf)[ ]*\\("

    while ((getline name <files) > 0)
        tree[name] = 1
}

# The law's name for the folder that a file lies in.
function layer(path,   parts, n) {
    n = split(path, parts, "/")
    if (n > 2 && parts[1] == "core")
        return "core/" parts[2]
    return n > 1 ? parts[1] : ""
}

function folder(path) {
    sub(/\/[^\/]*$/, "", path)
    return path
}

function library(path) {
    return path ~ /^(core|quant|models|backends)\//
}

function say(text) {
    printf "%s:%d: %s\n", FILENAME, FNR, text
}

FNR == 1 {
    in_comment = 0
    first = ""
    own = FILENAME
    sub(/\.c$/, ".h", own)
}

check == "dependencies" && /^[ ]*#[ ]*include[ ]*"/ {
    name = $0
    sub(/^[^"]*"/, "", name)
    sub(/".*/, "", name)
    if (first == "") {
        first = name
        if (FILENAME ~ /\.c$/ && (own in tree) && name != own)
            say("its own header, \"" own "\", comes first")
    }
    if (name == "config.h" || name ~ /^obj\//)
        next
    if (!(name in tree)) {
        say("\"" name "\" is no file of the tree; names are relative to the root")
        next
    }
    from = layer(FILENAME)
    to = layer(name)
    if (!(from in may))
        say("the folder " from " is not in the law (tests/lint/source.awk)")
    else if (from != to && index(" " may[from] " ", " " to " ") == 0)
        say(from " must not include " to " (\"" name "\")")
    if (name ~ /_internal\.h$/ && index(FILENAME, folder(name) "/") != 1 && from != "tests")
        say("\"" name "\" is private to " folder(name))
}

check == "posix-headers" && /^[ ]*#[ ]*include[ ]*</ && FILENAME !~ /^(core\/base|tools|tests|bench)\// {
    name = $0
    sub(/^[^<]*</, "", name)
    sub(/>.*/, "", name)
    if (index(posix, " " name " ") || name ~ /^(sys|arpa|netinet|linux|net)\//)
        say("<" name "> belongs behind core/base")
}

# The line without comments, strings and character constants.
function code(line,   out, i, c, n, quoted) {
    out = ""
    quoted = ""
    n = length(line)
    for (i = 1; i <= n; i++) {
        c = substr(line, i, 1)
        if (in_comment) {
            if (c == "*" && substr(line, i + 1, 1) == "/") {
                in_comment = 0
                i++
            }
        } else if (quoted != "") {
            if (c == "\\")
                i++
            else if (c == quoted)
                quoted = ""
        } else if (c == "\"" || c == "'") {
            quoted = c
        } else if (c == "/" && substr(line, i + 1, 1) == "/") {
            break
        } else if (c == "/" && substr(line, i + 1, 1) == "*") {
            in_comment = 1
            i++
        } else {
            out = out c
        }
    }
    return out
}

check == "library-calls" && library(FILENAME) {
    # Most lines need no closer look.
    if (!in_comment && $0 !~ /\/\*/ && $0 !~ calls && $0 !~ formats)
        next
    text = code($0)
    if (text ~ calls)
        say("the library never prints, exits or aborts: " text)
    if (text ~ formats && FILENAME !~ /^core\/base\//)
        say("use lt_snprintf or lt_strbuf: " text)
}
