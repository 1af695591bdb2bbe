#include "cmd/wrap.h"

#include <stdio.h>

static size_t columns(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n += ((unsigned char)s.ptr[i] & 0xc0) != 0x80; /* not what continues a character of UTF-8 */
    return n;
}

/* Words from column *at on; `begun`: there is one before them in this line. */
static void add_words(struct str text, size_t *at, size_t indent, bool begun)
{
    struct str word;
    while (str_cut(&text, ' ', &word)) {
        if (begun && *at + 1 + columns(word) > WRAP_WIDTH) {
            printf("\n%*s", (int)indent, "");
            *at = indent;
            begun = false;
        }
        printf("%s%.*s", begun ? " " : "", STR_ARG(word));
        *at += begun + columns(word);
        begun = true;
    }
}

void wrap_print(struct str text, size_t at, size_t indent)
{
    add_words(text, &at, indent, false);
    putchar('\n');
}

void wrap_print_paragraphs(struct str text)
{
    struct str line;
    size_t at = 0;
    while (str_cut(&text, '\n', &line)) {
        bool as_it_is = !line.len || line.ptr[0] == ' ';
        if (as_it_is && at > 0) {
            putchar('\n');
            at = 0;
        }
        if (!as_it_is)
            add_words(line, &at, 0, at > 0);
        else if (line.len || text.len) /* not what is behind the last line's end */
            printf("%.*s\n", STR_ARG(line));
    }
    if (at > 0)
        putchar('\n');
}
