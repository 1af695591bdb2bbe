/* The driver of tokens. A module is loaded and initialised once and stays: its state is the process's, and other root keys may be in it. */
#include "crypto/pkcs11.h"

#include <dlfcn.h>
#include <p11-kit/pkcs11.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rnd.h"

#define NONCE_BYTES 12
#define TAG_BYTES 16
#define SLOTS_MAX 64
#define PIN_MAX 256
#define WRAPPED_MAX 4096

struct token {
    struct pkcs11_uri uri;
    CK_FUNCTION_LIST *f;
    CK_SESSION_HANDLE session; /* 0: none */
    CK_OBJECT_HANDLE key;
};

/* Codes that people meet, by name. */
static const char *text_of(CK_RV rv)
{
    static const struct {
        CK_RV rv;
        const char *text;
    } texts[] = {{CKR_PIN_INCORRECT, "the PIN is wrong"}, {CKR_PIN_LOCKED, "the PIN is locked"}, {CKR_PIN_LEN_RANGE, "the PIN has a length that it cannot have"},
                 {CKR_DEVICE_REMOVED, "the token was removed"}, {CKR_TOKEN_NOT_PRESENT, "the token is not there"}, {CKR_DEVICE_ERROR, "the device fails"},
                 {CKR_MECHANISM_INVALID, "it does not know AES-GCM"}, {CKR_MECHANISM_PARAM_INVALID, "it does not take AES-GCM with a nonce from outside"},
                 {CKR_KEY_FUNCTION_NOT_PERMITTED, "the key may not encrypt and decrypt"}, {CKR_KEY_TYPE_INCONSISTENT, "the key is no AES key"},
                 {CKR_USER_NOT_LOGGED_IN, "it wants a PIN (pin-source)"}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (texts[i].rv == rv)
            return texts[i].text;
    return "it fails";
}

static int fail(CK_RV rv, const char *what, struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "PKCS#11: %s: %s (0x%lx)", what, text_of(rv), rv);
}

static int load(const char *path, CK_FUNCTION_LIST **ret, struct err *err)
{
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return err_set(err, ERR_NOT_FOUND, "PKCS#11: %s cannot be loaded: %s", path, dlerror());
    CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
    *(void **)&get = dlsym(lib, "C_GetFunctionList");
    CK_RV rv = get ? get(ret) : CKR_GENERAL_ERROR;
    if (rv != CKR_OK)
        return err_set(err, ERR_INVALID, "PKCS#11: %s is no PKCS#11 module", path);
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    rv = (*ret)->C_Initialize(&args);
    return rv == CKR_OK || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED ? 0 : fail(rv, path, err);
}

/* Fields of tokens are padded with spaces. */
static bool matches(const char *wanted, const unsigned char *field, size_t size)
{
    struct str have = str_n(field, size);
    while (have.len && have.ptr[have.len - 1] == ' ')
        have.len--;
    return !*wanted || str_eqc(have, wanted);
}

static int find_slot(const struct token *t, CK_SLOT_ID *ret, struct err *err)
{
    CK_SLOT_ID slots[SLOTS_MAX];
    CK_ULONG count = SLOTS_MAX, found = 0;
    CK_RV rv = t->f->C_GetSlotList(CK_TRUE, slots, &count);
    if (rv != CKR_OK)
        return fail(rv, "listing the slots", err);
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        if (t->f->C_GetTokenInfo(slots[i], &info) != CKR_OK || !matches(t->uri.token, info.label, sizeof(info.label)) ||
            !matches(t->uri.manufacturer, info.manufacturerID, sizeof(info.manufacturerID)) || !matches(t->uri.serial, info.serialNumber, sizeof(info.serialNumber)) ||
            !matches(t->uri.model, info.model, sizeof(info.model)) || !(info.flags & CKF_TOKEN_INITIALIZED))
            continue;
        *ret = slots[i];
        found++;
    }
    if (found == 1)
        return 0;
    return err_set(err, found ? ERR_INVALID : ERR_NOT_FOUND, "PKCS#11: %lu tokens of %s are what the URI says (token \"%s\"); expected one", found, t->uri.module_path, t->uri.token);
}

static int log_in(const struct token *t, struct err *err)
{
    char *pin = NULL;
    size_t len = 0;
    if (!*t->uri.pin_file)
        return 0;
    int rc = file_read(t->uri.pin_file, PIN_MAX, &pin, &len, err);
    if (rc < 0)
        return err_wrap(err, "the PIN of the root key");
    struct str text = str_trim(str_n(pin, len));
    CK_RV rv = t->f->C_Login(t->session, CKU_USER, (unsigned char *)(uintptr_t)text.ptr, text.len);
    mem_wipe(pin, len);
    mem_free(pin);
    return rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN ? 0 : fail(rv, "logging in", err);
}

/* AES-256 and nothing shorter: what it wraps has 256 bits. */
static int check_size(const struct token *t, struct err *err)
{
    CK_ULONG size = 0;
    CK_ATTRIBUTE a = {CKA_VALUE_LEN, &size, sizeof(size)};
    CK_RV rv = t->f->C_GetAttributeValue(t->session, t->key, &a, 1);
    if (rv != CKR_OK)
        return fail(rv, "asking for the key's size", err);
    return size == ENVELOPE_KEY_BYTES ? 0 : err_set(err, ERR_INVALID, "PKCS#11: the key \"%s\" has %lu bytes; expected AES-256, which has %d", t->uri.object, size, ENVELOPE_KEY_BYTES);
}

static int find_key(struct token *t, struct err *err)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE wanted[4] = {{CKA_CLASS, &class, sizeof(class)}, {CKA_KEY_TYPE, &type, sizeof(type)}};
    CK_ULONG n = 2, found = 0;
    CK_OBJECT_HANDLE keys[2];
    if (*t->uri.object)
        wanted[n++] = (CK_ATTRIBUTE){CKA_LABEL, t->uri.object, strlen(t->uri.object)};
    if (t->uri.id_len)
        wanted[n++] = (CK_ATTRIBUTE){CKA_ID, t->uri.id, t->uri.id_len};
    CK_RV rv = t->f->C_FindObjectsInit(t->session, wanted, n);
    if (rv == CKR_OK) {
        rv = t->f->C_FindObjects(t->session, keys, 2, &found);
        (void)t->f->C_FindObjectsFinal(t->session);
    }
    if (rv != CKR_OK)
        return fail(rv, "looking for the key", err);
    t->key = found ? keys[0] : 0;
    if (found == 1)
        return check_size(t, err);
    if (found)
        return err_set(err, ERR_INVALID, "PKCS#11: several AES keys of the token are what the URI says (object \"%s\")", t->uri.object);
    return err_set(err, ERR_NOT_FOUND, "PKCS#11: the token \"%s\" has no AES key \"%s\" that can be seen%s", t->uri.token, t->uri.object, *t->uri.pin_file ? "" : " without a PIN (pin-source)");
}

static void close_session(struct token *t)
{
    if (t->session)
        (void)t->f->C_CloseSession(t->session);
    t->session = 0;
}

static int open_session(struct token *t, struct err *err)
{
    CK_SLOT_ID slot = 0;
    int rc = find_slot(t, &slot, err);
    if (rc < 0)
        return rc;
    CK_RV rv = t->f->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &t->session);
    if (rv != CKR_OK) {
        t->session = 0;
        return fail(rv, "opening a session", err);
    }
    if ((rc = log_in(t, err)) < 0 || (rc = find_key(t, err)) < 0)
        close_session(t);
    return rc;
}

static void token_free(void *state)
{
    struct token *t = state;
    close_session(t);
    mem_free(t);
}

int pkcs11_open(const struct pkcs11_uri *uri, void **ret_state, struct err *err)
{
    struct token *t = XNEW(struct token);
    t->uri = *uri;
    int rc = load(uri->module_path, &t->f, err);
    if (rc == 0)
        rc = open_session(t, err);
    if (rc < 0)
        mem_free(t);
    else
        *ret_state = t;
    return rc;
}

/* ---- work ---- */

static bool is_gone(CK_RV rv)
{
    return rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED || rv == CKR_KEY_HANDLE_INVALID || rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_DEVICE_REMOVED ||
           rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_USER_NOT_LOGGED_IN;
}

static CK_RV work(struct token *t, bool seal, unsigned char *nonce, struct str aad, struct str in, unsigned char *out, CK_ULONG *len)
{
    CK_GCM_PARAMS p = {.iv_ptr = nonce, .iv_len = NONCE_BYTES, .iv_bits = NONCE_BYTES * 8, .aad_ptr = (unsigned char *)(uintptr_t)aad.ptr, .aad_len = aad.len, .tag_bits = TAG_BYTES * 8};
    CK_MECHANISM m = {CKM_AES_GCM, &p, sizeof(p)};
    unsigned char *from = (unsigned char *)(uintptr_t)in.ptr;
    CK_RV rv = seal ? t->f->C_EncryptInit(t->session, &m, t->key) : t->f->C_DecryptInit(t->session, &m, t->key);
    if (rv != CKR_OK)
        return rv;
    return seal ? t->f->C_Encrypt(t->session, from, in.len, out, len) : t->f->C_Decrypt(t->session, from, in.len, out, len);
}

/* Once more in a new session, when the old one is gone: tokens are restarted, too. */
static int work_on(struct token *t, bool seal, unsigned char *nonce, struct str aad, struct str in, unsigned char *out, CK_ULONG *len, struct err *err)
{
    CK_ULONG size = *len;
    CK_RV rv = t->session ? work(t, seal, nonce, aad, in, out, len) : CKR_SESSION_HANDLE_INVALID;
    if (is_gone(rv)) {
        close_session(t);
        int rc = open_session(t, err);
        if (rc < 0)
            return rc;
        *len = size;
        rv = work(t, seal, nonce, aad, in, out, len);
    }
    if (rv == CKR_OK)
        return 0;
    if (!seal && !is_gone(rv) && rv != CKR_DEVICE_ERROR && rv != CKR_DEVICE_MEMORY && rv != CKR_HOST_MEMORY && rv != CKR_MECHANISM_INVALID && rv != CKR_KEY_FUNCTION_NOT_PERMITTED)
        return err_set(err, ERR_CORRUPT, "the token's key does not open it: it was changed, or wrapped by another key"); /* modules have many codes for that */
    return fail(rv, seal ? "wrapping" : "unwrapping", err);
}

static int token_wrap(void *state, struct str aad, struct str plain, struct sbuf *out, struct err *err)
{
    unsigned char nonce[NONCE_BYTES];
    CK_ULONG len = plain.len + TAG_BYTES;
    char *room = plain.len <= WRAPPED_MAX ? sbuf_reserve(out, NONCE_BYTES + len) : NULL;
    if (!room)
        return err_set(err, ERR_TOO_LARGE, "too large to be wrapped");
    rnd_bytes(nonce, sizeof(nonce));
    memcpy(room, nonce, sizeof(nonce));
    int rc = work_on(state, true, nonce, aad, plain, (unsigned char *)room + NONCE_BYTES, &len, err);
    if (rc == 0 && len != plain.len + TAG_BYTES)
        rc = err_set(err, ERR_PROTOCOL, "PKCS#11: wrapping gave %lu bytes instead of %zu", len, plain.len + TAG_BYTES);
    if (rc == 0)
        sbuf_commit(out, NONCE_BYTES + len);
    return rc;
}

static int token_unwrap(void *state, struct str aad, struct str wrapped, struct sbuf *out, struct err *err)
{
    unsigned char nonce[NONCE_BYTES], plain[WRAPPED_MAX + TAG_BYTES];
    CK_ULONG len = sizeof(plain);
    if (wrapped.len < AEAD_OVERHEAD || wrapped.len > WRAPPED_MAX)
        return err_set(err, ERR_CORRUPT, "the wrapped key is cut");
    memcpy(nonce, wrapped.ptr, sizeof(nonce));
    int rc = work_on(state, false, nonce, aad, str_skip(wrapped, NONCE_BYTES), plain, &len, err);
    if (rc == 0 && len != wrapped.len - AEAD_OVERHEAD)
        rc = err_set(err, ERR_CORRUPT, "PKCS#11: unwrapping gave %lu bytes instead of %zu", len, wrapped.len - AEAD_OVERHEAD);
    if (rc == 0) {
        sbuf_add(out, str_n(plain, len));
        rc = sbuf_ok(out) ? 0 : err_set(err, ERR_TOO_LARGE, "the wrapped key is too large");
    }
    mem_wipe(plain, sizeof(plain));
    return rc;
}

const struct root_key_ops pkcs11_ops = {.driver = "pkcs11", .wrap = token_wrap, .unwrap = token_unwrap, .free = token_free};
