/* URIs of RFC 7512, as far as they name a key: pkcs11:token=seki;object=root?module-path=/usr/lib/…&pin-source=file:/etc/seki/pin */
#include "crypto/hash.h"
#include "crypto/pkcs11.h"

/* Percent-encoded bytes; at most size - 1 of them, which end in NUL. */
static int decode(struct str name, struct str value, char *out, size_t size, size_t *ret_len, struct err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < value.len; i++, n++) {
        char c = value.ptr[i];
        if (c == '%') {
            uint8_t byte;
            if (i + 2 >= value.len || !hash_unhex(str_n(value.ptr + i + 1, 2), &byte, 1))
                return err_set(err, ERR_INVALID, "%.*s: %% is to be followed by two hexadecimal digits", STR_ARG(name));
            c = (char)byte;
            i += 2;
        } else if ((unsigned char)c <= ' ' || (unsigned char)c >= 127) {
            return err_set(err, ERR_INVALID, "%.*s: only printable ASCII without spaces; %%20 is a space", STR_ARG(name));
        }
        if (n + 1 >= size)
            return err_set(err, ERR_INVALID, "%.*s is longer than %zu bytes", STR_ARG(name), size - 1);
        out[n] = c;
    }
    out[n] = 0;
    *ret_len = n;
    return n ? 0 : err_set(err, ERR_INVALID, "%.*s is empty", STR_ARG(name));
}

static int decode_text(struct str name, struct str value, char *out, size_t size, struct err *err)
{
    size_t len = 0;
    if (*out)
        return err_set(err, ERR_INVALID, "%.*s is given twice", STR_ARG(name));
    int rc = decode(name, value, out, size, &len, err);
    return rc == 0 && strlen(out) != len ? err_set(err, ERR_INVALID, "%.*s has a NUL", STR_ARG(name)) : rc;
}

static int decode_id(struct str name, struct str value, struct pkcs11_uri *u, struct err *err)
{
    char bytes[PKCS11_ID_MAX + 1];
    if (u->id_len)
        return err_set(err, ERR_INVALID, "id is given twice");
    int rc = decode(name, value, bytes, sizeof(bytes), &u->id_len, err);
    if (rc == 0)
        memcpy(u->id, bytes, u->id_len);
    return rc;
}

static int read_path(struct str name, struct str value, struct pkcs11_uri *u, struct err *err)
{
    const struct {
        const char *name;
        char *out;
        size_t size;
    } texts[] = {{"token", u->token, sizeof(u->token)}, {"manufacturer", u->manufacturer, sizeof(u->manufacturer)}, {"serial", u->serial, sizeof(u->serial)},
                 {"model", u->model, sizeof(u->model)}, {"object", u->object, sizeof(u->object)}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (str_eqc(name, texts[i].name))
            return decode_text(name, value, texts[i].out, texts[i].size, err);
    if (str_eqc(name, "id"))
        return decode_id(name, value, u, err);
    if (str_eqc(name, "type") && (str_eqc(value, "secret-key")))
        return 0;
    return err_set(err, ERR_INVALID, "%.*s is not known here: expected token, manufacturer, serial, model, object, id or type=secret-key", STR_ARG(name));
}

static int read_query(struct str name, struct str value, struct pkcs11_uri *u, struct err *err)
{
    if (str_eqc(name, "module-path"))
        return decode_text(name, value, u->module_path, sizeof(u->module_path), err);
    if (str_eqc(name, "pin-source") && str_starts(value, STR("file:")))
        return decode_text(name, str_skip(value, 5), u->pin_file, sizeof(u->pin_file), err);
    if (str_eqc(name, "pin-source"))
        return err_set(err, ERR_INVALID, "pin-source: expected file:/PATH");
    if (str_eqc(name, "pin-value"))
        return err_set(err, ERR_INVALID, "pin-value is refused: put the PIN into a file and name it with pin-source=file:/PATH");
    return err_set(err, ERR_INVALID, "%.*s is not known here: expected module-path or pin-source", STR_ARG(name));
}

static int read_pairs(struct str text, char sep, int (*fn)(struct str name, struct str value, struct pkcs11_uri *u, struct err *err), struct pkcs11_uri *u, struct err *err)
{
    struct str pair;
    int rc = 0;
    while (rc == 0 && str_cut(&text, sep, &pair)) {
        ssize_t eq = str_find(pair, '=');
        if (eq <= 0 || eq > 32)
            return err_set(err, ERR_INVALID, "expected NAME=VALUE between each '%c'", sep);
        rc = fn(str_n(pair.ptr, (size_t)eq), str_skip(pair, (size_t)eq + 1), u, err);
    }
    return rc;
}

int pkcs11_uri_parse(struct str text, struct pkcs11_uri *ret, struct err *err)
{
    struct pkcs11_uri u = {.token = ""};
    if (!str_starts(text, STR(PKCS11_SCHEME)))
        return err_set(err, ERR_INVALID, "expected a URI that begins with " PKCS11_SCHEME);
    struct str rest = str_skip(text, strlen(PKCS11_SCHEME)), query = STR_NULL;
    ssize_t mark = str_find(rest, '?');
    if (mark >= 0) {
        query = str_skip(rest, (size_t)mark + 1);
        rest.len = (size_t)mark;
    }
    int rc = read_pairs(rest, ';', read_path, &u, err);
    if (rc == 0)
        rc = read_pairs(query, '&', read_query, &u, err);
    if (rc < 0)
        return rc;
    if (!*u.object && !u.id_len)
        return err_set(err, ERR_INVALID, "the URI names no key: expected object= or id=");
    if (u.module_path[0] != '/')
        return err_set(err, ERR_INVALID, "expected module-path=/PATH after the '?': the token's library");
    if (u.pin_file[0] && u.pin_file[0] != '/')
        return err_set(err, ERR_INVALID, "pin-source: expected file:/PATH");
    *ret = u;
    return 0;
}
