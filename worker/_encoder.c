/* LogGroupList bytes -> HEC events, in one pass without the GIL. What it writes is, byte for byte, what
 * worker/encode_python.py writes; that file is the reference.
 *
 *   count(raw)  says how many LogGroups there are, without looking into them;
 *   scan(raw)   validates the whole body and says which kinds of group (topic, source, host name) it holds;
 *   encode(...) writes the events, with what worker/envelope.py made of each kind spliced in. Of a route that looks into
 *               the logs, it asks Python for those events of which _unfold.h cannot say what Python would.
 *
 * Every read is bounded by the message it is in, in both passes: the second one believes nothing of the first.
 * Sixteen bytes are loaded at a time where the body has sixteen left, so a load may pass the end of a value, never
 * the end of the body. Limited API: one binary serves every CPython from 3.11 on.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdlib.h>
#include "_text.h"
#include "_unfold.h"

#define NONE UINT32_MAX

enum { OK = 0, MALFORMED = 1, NO_MEMORY = 2, RAISED = 3 };

static u64 seed; /* of the hashes: hostile names must not collide on purpose */

/* ---- reading protobuf ---- */

/* A varint of at most `most` bytes; NULL when malformed. */
static inline const u8 *read_varint(const u8 *p, const u8 *end, int most, u64 *value) {
    if (p < end && *p < 0x80) {
        *value = *p;
        return p + 1;
    }
    u64 found = 0;
    for (int i = 0; i < most && p < end; i++) {
        u8 byte = *p++;
        if (i == 9 && byte > 1) return NULL;
        found |= (u64)(byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            *value = found;
            return p;
        }
    }
    return NULL;
}

/* The length of a field and its bytes, which lie before `end`. */
static inline const u8 *read_text(const u8 *p, const u8 *end, Text *text) {
    u64 size;
    p = read_varint(p, end, 5, &size);
    if (!p || size > (u64)(end - p)) return NULL;
    text->at = p;
    text->size = (size_t)size;
    return p + size;
}

static inline const u8 *read_tag(const u8 *p, const u8 *end, u64 *tag) {
    p = read_varint(p, end, 5, tag);
    return p && *tag >> 3 && *tag <= UINT32_MAX ? p : NULL;
}

/* A field that the schema does not know. One that it knows, of another kind, is an error: `known` is the highest of
 * its numbers. Groups are long out of protobuf, and SLS never had them. */
static const u8 *skip_field(const u8 *p, const u8 *end, u64 tag, u64 known) {
    Text ignored;
    u64 number;
    if (tag >> 3 <= known) return NULL;
    switch (tag & 7) {
        case 0: return read_varint(p, end, 10, &number);
        case 1: return end - p >= 8 ? p + 8 : NULL;
        case 2: return read_text(p, end, &ignored);
        case 5: return end - p >= 4 ? p + 4 : NULL;
        default: return NULL;
    }
}

/* A Content or a LogTag: key and value, the last of each. */
static const u8 *read_pair(const u8 *p, const u8 *end, Text *key, Text *value) {
    u64 tag;
    key->size = value->size = 0;
    key->at = value->at = p;
    while (p < end) {
        if (!(p = read_tag(p, end, &tag))) return NULL;
        if (tag == 0x0A) p = read_text(p, end, key);
        else if (tag == 0x12) p = read_text(p, end, value);
        else p = skip_field(p, end, tag, 2);
        if (!p) return NULL;
    }
    return p;
}

typedef struct { Text topic, source, hostname; u64 logs; } Head;

static int is_hostname(Text key) {
    return key.size == 12 && !memcmp(key.at, "__hostname__", 12);
}

static int check_log(Text log) {
    const u8 *p = log.at, *end = p + log.size;
    Text content, key, value;
    u64 tag, number;
    while (p < end) {
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if (tag == 0x12) {
            if (!(p = read_text(p, end, &content))) return MALFORMED;
            if (!read_pair(content.at, content.at + content.size, &key, &value)) return MALFORMED;
        } else if (tag == 0x08) p = read_varint(p, end, 10, &number);
        else if (tag == 0x25) p = end - p >= 4 ? p + 4 : NULL;
        else p = (tag >> 3) == 3 ? skip_field(p, end, tag, 2) : skip_field(p, end, tag, 4);
        if (!p) return MALFORMED;
    }
    return OK;
}

/* Of a tag named twice the first host name counts. */
static int check_group(Text group, Head *head) {
    const u8 *p = group.at, *end = p + group.size;
    Text field, key, value;
    u64 tag;
    int named = 0;
    memset(head, 0, sizeof *head);
    head->topic.at = head->source.at = head->hostname.at = p;
    while (p < end) {
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if (tag >> 3 > 6) {
            if (!(p = skip_field(p, end, tag, 6))) return MALFORMED;
            continue;
        }
        if ((tag & 7) != 2 || !(p = read_text(p, end, &field))) return MALFORMED;
        switch (tag >> 3) {
            case 1:
                if (check_log(field)) return MALFORMED;
                head->logs++;
                break;
            case 3: head->topic = field; break;
            case 4: head->source = field; break;
            case 6:
                if (!read_pair(field.at, field.at + field.size, &key, &value)) return MALFORMED;
                if (is_hostname(key) && !named) {
                    head->hostname = value;
                    named = 1;
                }
                break;
            default: break;
        }
    }
    return OK;
}

/* ---- tables of names ---- */

static inline u64 mix(u64 x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15ull;
    return x ^ x >> 29;
}

static u64 hash_text(Text text, u64 start) {
    u64 found = start ^ text.size * 0xD6E8FEB86659FD93ull, word;
    const u8 *p = text.at;
    size_t left = text.size;
    for (; left >= 8; p += 8, left -= 8) {
        memcpy(&word, p, 8);
        found = mix(found ^ word) + seed;
    }
    word = 0;
    memcpy(&word, p, left);
    return mix(mix(found ^ word));
}

static inline int same(Text a, Text b) {
    return a.size == b.size && !memcmp(a.at, b.at, a.size);
}

/* Open addressing over the indexes of something else. */
typedef struct { u32 *slots; u64 *hashes; u32 mask, count, room; } Index;

static int index_grow(Index *index) {
    u32 size = index->mask ? (index->mask + 1) * 2 : 64;
    u32 *slots = malloc(size * sizeof *slots);
    u64 *hashes = realloc(index->hashes, size / 2 * sizeof *hashes);
    if (hashes) index->hashes = hashes;
    if (!slots || !hashes) {
        free(slots);
        return NO_MEMORY;
    }
    memset(slots, 0xFF, size * sizeof *slots);
    for (u32 i = 0; i < index->count; i++) {
        u32 at = (u32)hashes[i] & (size - 1);
        while (slots[at] != NONE) at = (at + 1) & (size - 1);
        slots[at] = i;
    }
    free(index->slots);
    index->slots = slots;
    index->mask = size - 1;
    index->room = size / 2;
    return OK;
}

static void index_free(Index *index) {
    free(index->slots);
    free(index->hashes);
}

/* ---- the kinds of groups in a body ---- */

typedef struct { u64 start, size; u32 kind, logs; } Row;
typedef struct { Text topic, source, hostname; u64 logs; } Kind;
typedef struct { Row *rows; size_t count, room; Kind *kinds; size_t kind_room; Index index; } Found;

static int grow(void **items, size_t *room, size_t size) {
    size_t wanted = *room ? *room * 2 : 64;
    void *made = realloc(*items, wanted * size);
    if (!made) return NO_MEMORY;
    *items = made;
    *room = wanted;
    return OK;
}

static int is_kind(const Kind *kind, const Head *head) {
    return same(kind->topic, head->topic) && same(kind->source, head->source) && same(kind->hostname, head->hostname);
}

static int find_kind(Found *found, const Head *head, u32 *kind) {
    Index *index = &found->index;
    u64 hash = hash_text(head->hostname, hash_text(head->source, hash_text(head->topic, seed)));
    if (index->count >= index->room && index_grow(index)) return NO_MEMORY;
    u32 at = (u32)hash & index->mask;
    for (; index->slots[at] != NONE; at = (at + 1) & index->mask) {
        *kind = index->slots[at];
        if (index->hashes[*kind] == hash && is_kind(&found->kinds[*kind], head)) return OK;
    }
    if (index->count >= found->kind_room && grow((void **)&found->kinds, &found->kind_room, sizeof(Kind)))
        return NO_MEMORY;
    *kind = index->slots[at] = index->count;
    index->hashes[index->count++] = hash;
    found->kinds[*kind] = (Kind){head->topic, head->source, head->hostname, 0};
    return OK;
}

static int scan_list(const u8 *raw, size_t size, Found *found) {
    const u8 *p = raw, *end = raw + size;
    Text group;
    Head head;
    u64 tag;
    u32 kind = NONE;
    while (p < end) {
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if (tag != 0x0A) {
            if (!(p = skip_field(p, end, tag, 1))) return MALFORMED;
            continue;
        }
        if (!(p = read_text(p, end, &group)) || check_group(group, &head)) return MALFORMED;
        if (found->count >= found->room && grow((void **)&found->rows, &found->room, sizeof(Row))) return NO_MEMORY;
        if (kind == NONE || !is_kind(&found->kinds[kind], &head))
            if (find_kind(found, &head, &kind)) return NO_MEMORY;
        found->kinds[kind].logs += head.logs;
        found->rows[found->count++] = (Row){(u64)(group.at - raw), group.size, kind, (u32)head.logs};
    }
    return OK;
}

/* ---- names of fields ---- */

/* A field's name as it came; what it becomes; which name that is. */
typedef struct { u32 raw_at, raw_size, json_at, json_size, name, next; } Entry;
/* A name as it stands in the event: the log that had it last, where the values of a duplicate hang, and of the group that
 * unfolds it which of its paths it is. */
typedef struct { u32 at, size; u64 log; u32 first, last; u64 group; u32 path; } Name;
typedef struct { Text value; u32 entry, next; } Field;
/* What a route looks for in its logs: a time, a host, texts to unfold. `rest` follows a host of its own in the event's
 * envelope; it is empty where the host is the group's. */
typedef struct { Text time, host, rest; u32 time_name, host_name; Path *paths; size_t path_count; } Look;

typedef struct {
    Index entries_index, names_index;
    Entry *entries;
    Name *names;
    size_t entry_room, name_room;
    u8 *arena; /* raw names, repaired names and ready-made JSON, each with 16 bytes behind it */
    size_t arena_size, arena_room;
    Field *fields;
    size_t field_count, field_room;
    u64 log, group;
    int tags; /* names get the prefix of tags, and none is reserved */
} Names;

static void names_free(Names *n) {
    index_free(&n->entries_index);
    index_free(&n->names_index);
    free(n->entries);
    free(n->names);
    free(n->arena);
    free(n->fields);
}

static u8 *arena_take(Names *n, size_t size) {
    if (n->arena_room - n->arena_size < size + SLACK) {
        size_t room = (n->arena_room + size + SLACK) * 2;
        u8 *made = room < NONE ? realloc(n->arena, room) : NULL;
        if (!made) return NULL;
        n->arena = made;
        n->arena_room = room;
    }
    return n->arena + n->arena_size;
}

/* `__topic__`, `sls_id` and tags are ours. */
static int is_reserved(Text key) {
    return (key.size == 9 && !memcmp(key.at, "__topic__", 9)) || (key.size == 6 && !memcmp(key.at, "sls_id", 6)) ||
           (key.size >= 8 && !memcmp(key.at, "__tag__:", 8));
}

/* The name in the event, before escaping: repaired, and ours kept apart. Put in the arena. */
static int make_name(Names *n, Text key, Text *name) {
    u8 *start = arena_take(n, key.size * 3 + 16), *o = start;
    if (!start) return NO_MEMORY;
    if (n->tags) {
        memcpy(o, "__tag__:", 8);
        o += 8;
    }
    for (const u8 *p = key.at, *end = p + key.size; p < end;)
        if (*p < 0x80) *o++ = *p++;
        else p = put_long(&o, p, end);
    if (!n->tags && is_reserved(key)) *o++ = '_';
    *name = (Text){start, (size_t)(o - start)};
    n->arena_size += name->size;
    return OK;
}

static int find_name(Names *n, Text name, u32 *found) {
    Index *index = &n->names_index;
    u64 hash = hash_text(name, seed);
    if (index->count >= index->room && index_grow(index)) return NO_MEMORY;
    u32 at = (u32)hash & index->mask;
    for (; index->slots[at] != NONE; at = (at + 1) & index->mask) {
        Name *one = &n->names[*found = index->slots[at]];
        if (index->hashes[*found] == hash && same(name, (Text){n->arena + one->at, one->size})) return OK;
    }
    if (index->count >= n->name_room && grow((void **)&n->names, &n->name_room, sizeof(Name))) return NO_MEMORY;
    *found = index->slots[at] = index->count;
    index->hashes[index->count++] = hash;
    n->names[*found] = (Name){(u32)(name.at - n->arena), (u32)name.size, 0, NONE, NONE, 0, NONE};
    return OK;
}

/* Of a name that does not come out of a log. */
static int learn_name(Names *n, Text name, u32 *found) {
    u8 *at = arena_take(n, name.size);
    if (!at) return NO_MEMORY;
    memcpy(at, name.at, name.size);
    if (find_name(n, (Text){at, name.size}, found)) return NO_MEMORY;
    if (n->names[*found].at == (u32)n->arena_size) n->arena_size += name.size; /* it is a new one */
    return OK;
}

static int make_entry(Names *n, Text key, Entry *entry) {
    Text name;
    u8 *raw = arena_take(n, key.size);
    if (!raw) return NO_MEMORY;
    memcpy(raw, key.at, key.size);
    entry->raw_at = (u32)n->arena_size;
    entry->raw_size = (u32)key.size;
    n->arena_size += key.size;
    if (make_name(n, key, &name) || find_name(n, name, &entry->name)) return NO_MEMORY;
    size_t at = (size_t)(name.at - n->arena);
    u8 *json = arena_take(n, name.size * 6 + 4), *o = json;
    if (!json) return NO_MEMORY;
    name.at = n->arena + at; /* it may have moved */
    *o++ = '"';
    o = put_text(o, name.at, name.at + name.size, name.at + name.size);
    memcpy(o, "\":", 2);
    o += 2;
    entry->json_at = (u32)n->arena_size;
    entry->json_size = (u32)(o - json);
    entry->next = 0;
    n->arena_size += entry->json_size;
    return OK;
}

static int find_entry(Names *n, Text key, u32 *found) {
    Index *index = &n->entries_index;
    u64 hash = hash_text(key, seed);
    if (index->count >= index->room && index_grow(index)) return NO_MEMORY;
    u32 at = (u32)hash & index->mask;
    for (; index->slots[at] != NONE; at = (at + 1) & index->mask) {
        Entry *one = &n->entries[*found = index->slots[at]];
        if (index->hashes[*found] == hash && same(key, (Text){n->arena + one->raw_at, one->raw_size})) return OK;
    }
    if (index->count >= n->entry_room && grow((void **)&n->entries, &n->entry_room, sizeof(Entry))) return NO_MEMORY;
    *found = index->count;
    if (make_entry(n, key, &n->entries[*found])) return NO_MEMORY;
    index->slots[at] = index->count;
    index->hashes[index->count++] = hash;
    return OK;
}

#if defined(__SSE2__)
/* Names are short: one comparison of sixteen bytes. `b` lies in the arena, which has them. */
static inline int is_same_name(const u8 *a, const u8 *b, size_t size, const u8 *limit) {
    if (size > 16 || limit - a < 16) return !memcmp(a, b, size);
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)a), y = _mm_loadu_si128((const __m128i *)(const void *)b);
    u32 wanted = (u32)((1ull << size) - 1);
    return ((u32)_mm_movemask_epi8(_mm_cmpeq_epi8(x, y)) & wanted) == wanted;
}
#else
static inline int is_same_name(const u8 *a, const u8 *b, size_t size, const u8 *limit) {
    (void)limit;
    return !memcmp(a, b, size);
}
#endif

/* ---- fields of a log, or tags of a group ---- */

static void begin_fields(Names *n) {
    n->field_count = 0;
    n->log++;
}

/* Append a field; *size grows by the most it may take, *twice says that its name was there already. */
static inline int add_field(Names *n, Text key, Text value, const u8 *limit, u32 *last, size_t *size, int *twice) {
    u32 found = *last < n->entries_index.count ? n->entries[*last].next : NONE;
    if (found >= n->entries_index.count || n->entries[found].raw_size != key.size ||
        !is_same_name(key.at, n->arena + n->entries[found].raw_at, key.size, limit)) {
        if (find_entry(n, key, &found)) return NO_MEMORY;
        if (*last < n->entries_index.count) n->entries[*last].next = found;
    }
    *last = found;
    const Entry *entry = &n->entries[found];
    if (n->field_count >= n->field_room && grow((void **)&n->fields, &n->field_room, sizeof(Field))) return NO_MEMORY;
    n->fields[n->field_count++] = (Field){value, found, NONE};
    Name *name = &n->names[entry->name];
    *twice |= name->log == n->log;
    name->log = n->log;
    *size += entry->json_size + value.size * 6 + 8;
    return OK;
}

static inline u8 *put_value(u8 *o, Text value, const u8 *limit) {
    *o++ = '"';
    o = put_text(o, value.at, value.at + value.size, limit);
    memcpy(o, "\",", 2);
    return o + 2;
}

static inline u8 *put_name(u8 *o, const Names *n, const Entry *entry) {
    const u8 *json = n->arena + entry->json_at;
    if (entry->json_size <= 32) memcpy(o, json, 32); /* both sides have the room: two moves instead of a call */
    else memcpy(o, json, entry->json_size);
    return o + entry->json_size;
}

/* The JSON that a value holds, where its name is one that the group unfolds; NULL where Python is to be asked. */
static u8 *put_unfolded(u8 *o, Names *n, const Look *look, const Field *field, const u8 *limit) {
    const Name *name = &n->names[n->entries[field->entry].name];
    if (name->group != n->group) return put_value(o, field->value, limit);
    u8 *end = put_repaired(o, field->value.at, field->value.at + field->value.size, limit);
    switch (unfold_text(o, &end, &look->paths[name->path])) {
        case YES: *end++ = ','; return end;
        case NO: return put_value(o, field->value, limit);
        default: return NULL;
    }
}

static inline u8 *put_field(u8 *o, Names *n, const Look *look, const Field *field, const u8 *limit) {
    o = put_name(o, n, &n->entries[field->entry]);
    return look ? put_unfolded(o, n, look, field, limit) : put_value(o, field->value, limit);
}

/* The values of a name that is there twice, as a list where the first one stands. */
static u8 *put_duplicates(u8 *o, Names *n, const Look *look, const u8 *limit) {
    Field *fields = n->fields;
    for (size_t i = 0; i < n->field_count; i++) n->names[n->entries[fields[i].entry].name].first = NONE;
    for (u32 i = 0; i < n->field_count; i++) {
        Name *name = &n->names[n->entries[fields[i].entry].name];
        if (name->first == NONE) name->first = i;
        else fields[name->last].next = i;
        name->last = i;
    }
    for (u32 i = 0; i < n->field_count && o; i++) {
        const Entry *entry = &n->entries[fields[i].entry];
        if (n->names[entry->name].first != i) continue;
        if (fields[i].next == NONE) {
            o = put_field(o, n, look, &fields[i], limit);
            continue;
        }
        o = put_name(o, n, entry);
        *o++ = '[';
        for (u32 j = i; j != NONE; j = fields[j].next) o = put_value(o, fields[j].value, limit);
        o[-1] = ']';
        *o++ = ',';
    }
    return o;
}

/* All fields, each with a comma behind it; NULL where Python is to be asked, which is only with a `look`. */
static inline u8 *put_fields(u8 *o, Names *n, const Look *look, int twice, const u8 *limit) {
    if (twice) return put_duplicates(o, n, look, limit);
    for (size_t i = 0; i < n->field_count && o; i++) o = put_field(o, n, look, &n->fields[i], limit);
    return o;
}

/* The value of a name, where it is there once. */
static int find_once(const Names *n, u32 name, Text *value) {
    int times = 0;
    for (size_t i = 0; i < n->field_count; i++) {
        if (n->entries[n->fields[i].entry].name != name) continue;
        *value = n->fields[i].value;
        times++;
    }
    return times == 1;
}

/* ---- events ---- */

typedef struct { Text mid, constants, opening, end; u32 kind, kind_of_span; int with_id, mode; Look look; } Plan;
enum { PLAIN = 0, DROP = 1, LOOK = 2, ASK = 3 };
typedef struct { u64 first, count; u32 kind; } Span;

typedef struct {
    const u8 *raw, *limit;
    PyObject *data; /* a bytearray not yet seen by anybody: the one buffer that the limited API lets grow in place */
    u8 *out, *out_start;
    size_t room;
    u64 *ends, *firsts, *places;
    size_t event_count, event_room, group_count;
    Span *spans;
    size_t span_count, span_room;
    u8 *tail; /* of the group at hand */
    size_t tail_size, tail_room;
    Names names, tags;
    u64 begin;
    int sparse;
    PyObject *ask; /* makes an event in Python */
    PyThreadState *thread; /* NULL while the GIL is held */
} Run;

/* Whether it was not held before. */
static int hold_gil(Run *run) {
    if (!run->thread) return 0;
    PyEval_RestoreThread(run->thread);
    run->thread = NULL;
    return 1;
}

static void release_gil(Run *run) {
    run->thread = PyEval_SaveThread();
}

/* Room for `size` bytes and SLACK. The memory is Python's, so that the result is not copied. */
static int reserve(Run *run, size_t size) {
    size_t used = (size_t)(run->out - run->out_start);
    if (run->room - used >= size + SLACK) return OK;
    size_t room = run->room + run->room / 2 + size + SLACK;
    int taken = hold_gil(run), failed = PyByteArray_Resize(run->data, (Py_ssize_t)room);
    if (failed) PyErr_Clear();
    else {
        run->out_start = (u8 *)PyByteArray_AsString(run->data);
        run->out = run->out_start + used;
        run->room = room;
    }
    if (taken) release_gil(run);
    return failed ? NO_MEMORY : OK;
}

/* What follows the fields of each log of a group, up to the log's place. */
static int make_tail(Run *run, Text group, const Plan *plan, u64 place) {
    const u8 *p = group.at, *end = p + group.size;
    Text field, key, value;
    u64 tag;
    u32 last = NONE;
    size_t size = plan->constants.size + plan->opening.size + 64;
    int twice = 0;
    begin_fields(&run->tags);
    while (p < end) {
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if ((tag & 7) != 2) {
            if (!(p = skip_field(p, end, tag, 6))) return MALFORMED;
            continue;
        }
        if (!(p = read_text(p, end, &field))) return MALFORMED;
        if (tag >> 3 != 6) continue;
        if (!read_pair(field.at, field.at + field.size, &key, &value)) return MALFORMED;
        if (add_field(&run->tags, key, value, run->limit, &last, &size, &twice)) return NO_MEMORY;
    }
    if (run->tail_room < size + SLACK) {
        u8 *made = realloc(run->tail, size + SLACK);
        if (!made) return NO_MEMORY;
        run->tail = made;
        run->tail_room = size + SLACK;
    }
    u8 *o = put_bytes(run->tail, plan->constants);
    *o++ = ',';
    o = put_fields(o, &run->tags, NULL, twice, run->limit) - 1;
    o = put_bytes(o, plan->opening);
    if (plan->with_id) {
        o = put_number(o, run->sparse ? run->begin : run->begin + place);
        if (run->sparse) {
            *o++ = '.';
            o = put_number(o, place);
        }
        *o++ = '-';
    }
    run->tail_size = (size_t)(o - run->tail);
    return OK;
}

/* The fields of a log, collected; their sizes are known before a byte is written. */
static int read_log(Run *run, Text log, u64 *time, u32 *nanoseconds, size_t *size, int *twice) {
    const u8 *p = log.at, *end = p + log.size;
    Text content, key, value;
    u64 tag;
    u32 last = NONE;
    begin_fields(&run->names);
    while (p < end) {
        if (*p == 0x12) {
            if (!(p = read_text(p + 1, end, &content))) return MALFORMED;
            const u8 *q = content.at;
            /* as every writer writes it: name, then value, nothing else */
            if (content.size > 3 && q[0] == 0x0A && q[1] < 0x80 && content.size > 3u + q[1] && q[2 + q[1]] == 0x12) {
                key = (Text){q + 2, q[1]};
                if (!(q = read_text(key.at + key.size + 1, p, &value))) return MALFORMED;
                if (q != p && !read_pair(content.at, p, &key, &value)) return MALFORMED;
            } else if (!read_pair(q, p, &key, &value))
                return MALFORMED;
            if (add_field(&run->names, key, value, run->limit, &last, size, twice)) return NO_MEMORY;
            continue;
        }
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if (tag == 0x08) p = read_varint(p, end, 10, time);
        else if (tag == 0x25 && end - p >= 4) {
            *nanoseconds = (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
            p += 4;
        } else if (tag == 0x12) { /* its tag took more than one byte */
            if (!(p = read_text(p, end, &content)) || !read_pair(content.at, p, &key, &value)) return MALFORMED;
            if (add_field(&run->names, key, value, run->limit, &last, size, twice)) return NO_MEMORY;
        } else
            p = skip_field(p, end, tag, tag >> 3 == 3 ? 2 : 4);
        if (!p) return MALFORMED;
    }
    return OK;
}

static int add_end(Run *run) {
    if (run->event_count >= run->event_room && grow((void **)&run->ends, &run->event_room, sizeof(u64)))
        return NO_MEMORY;
    run->ends[run->event_count++] = (u64)(run->out - run->out_start);
    return OK;
}

static PyObject *fields_list(const Names *n) {
    PyObject *list = PyList_New((Py_ssize_t)n->field_count);
    for (size_t i = 0; list && i < n->field_count; i++) {
        const Field *field = &n->fields[i];
        const Entry *entry = &n->entries[field->entry];
        PyObject *pair = Py_BuildValue("(y#y#)", n->arena + entry->raw_at, (Py_ssize_t)entry->raw_size, field->value.at,
                                       (Py_ssize_t)field->value.size);
        if (!pair || PyList_SetItem(list, (Py_ssize_t)i, pair)) Py_CLEAR(list);
    }
    return list;
}

/* An event that Python makes. The GIL is kept until the group ends: where one log is odd, others are. */
static int put_asked(Run *run, const Plan *plan, u64 time, u32 nanoseconds, u64 place) {
    hold_gil(run);
    PyObject *fields = fields_list(&run->names);
    PyObject *made = fields ? PyObject_CallFunction(run->ask, "IOkky#K", plan->kind, fields, (unsigned long)(u32)time,
                                                    (unsigned long)nanoseconds, run->tail, (Py_ssize_t)run->tail_size,
                                                    (unsigned long long)place)
                            : NULL;
    char *at;
    Py_ssize_t size;
    int failed = !made || PyBytes_AsStringAndSize(made, &at, &size) ? RAISED : reserve(run, (size_t)size);
    if (!failed) {
        memcpy(run->out, at, (size_t)size);
        run->out += size;
        failed = add_end(run);
    }
    Py_XDECREF(fields);
    Py_XDECREF(made);
    return failed;
}

/* From the time to the opening of the event, by what the log says; NULL where Python is to be asked. */
static u8 *put_looked(u8 *o, Run *run, const Plan *plan, u64 time, u32 nanoseconds) {
    const Look *look = &plan->look;
    Text value;
    Verdict verdict = NO;
    if (look->time.size && find_once(&run->names, look->time_name, &value)) verdict = put_time(&o, value);
    if (verdict == UNSURE) return NULL;
    if (verdict == NO) o = put_decimal(o, (u32)time, nanoseconds);
    if (!look->rest.size || !find_once(&run->names, look->host_name, &value) || !value.size) return put_bytes(o, plan->mid);
    memcpy(o, "\",\"host\":\"", 10);
    o = put_text(o + 10, value.at, value.at + value.size, run->limit);
    *o++ = '"';
    return put_bytes(o, look->rest);
}

static int put_event(Run *run, Text log, const Plan *plan, u64 place) {
    u64 time = 0;
    u32 nanoseconds = 0;
    size_t size = plan->mid.size + plan->look.rest.size + run->tail_size + plan->end.size + 96;
    int twice = 0, failed = read_log(run, log, &time, &nanoseconds, &size, &twice);
    if (failed) return failed;
    if (plan->mode == ASK) return put_asked(run, plan, time, nanoseconds, place);
    /* a host may be written twice: as such, and as a field */
    if ((failed = reserve(run, plan->look.rest.size ? size * 2 : size))) return failed;
    u8 *o = run->out;
    memcpy(o, "{\"time\":\"", 9);
    o += 9;
    if (plan->mode == LOOK) o = put_looked(o, run, plan, time, nanoseconds);
    else o = put_bytes(put_decimal(o, (u32)time, nanoseconds), plan->mid);
    if (o) o = put_fields(o, &run->names, plan->mode == LOOK ? &plan->look : NULL, twice, run->limit);
    if (!o) return put_asked(run, plan, time, nanoseconds, place);
    memcpy(o, run->tail, run->tail_size);
    o += run->tail_size;
    if (plan->with_id) o = put_number(o, place);
    run->out = put_bytes(o, plan->end);
    return add_end(run);
}

/* The names that a plan looks for, as those of the logs are known. */
static int begin_look(Names *n, Look *look) {
    n->group++;
    if (learn_name(n, look->time, &look->time_name) || learn_name(n, look->host, &look->host_name)) return NO_MEMORY;
    for (u32 i = 0; i < look->path_count; i++) {
        u32 name;
        if (learn_name(n, look->paths[i].name, &name)) return NO_MEMORY;
        n->names[name].group = n->group;
        n->names[name].path = i;
    }
    return OK;
}

static int put_group(Run *run, Text group, Plan *plan, u64 place) {
    const u8 *p = group.at, *end = p + group.size;
    Text log;
    u64 tag, row = 0;
    int failed = make_tail(run, group, plan, place);
    if (!failed && plan->mode == LOOK) failed = begin_look(&run->names, &plan->look);
    while (!failed && p < end) {
        if (!(p = read_tag(p, end, &tag))) return MALFORMED;
        if (tag != 0x0A) {
            p = skip_field(p, end, tag, 0);
            if (!p) return MALFORMED;
            continue;
        }
        if (!(p = read_text(p, end, &log))) return MALFORMED;
        failed = put_event(run, log, plan, row++);
    }
    return failed;
}

static int add_span(Run *run, u64 first, u64 count, u32 kind) {
    if (run->span_count && run->spans[run->span_count - 1].kind == kind) {
        run->spans[run->span_count - 1].count += count;
        return OK;
    }
    if (run->span_count >= run->span_room && grow((void **)&run->spans, &run->span_room, sizeof(Span)))
        return NO_MEMORY;
    run->spans[run->span_count++] = (Span){first, count, kind};
    return OK;
}

static int encode_rows(Run *run, const Row *rows, size_t count, Plan *plans, size_t plan_count) {
    for (size_t i = 0; i < count; i++) {
        Row row;
        memcpy(&row, rows + i, sizeof row);
        if (row.kind >= plan_count || row.start > (u64)(run->limit - run->raw) ||
            row.size > (u64)(run->limit - run->raw) - row.start)
            return MALFORMED;
        Plan *plan = &plans[row.kind];
        if (!row.logs || plan->mode == DROP) continue;
        size_t first = run->event_count;
        int failed = put_group(run, (Text){run->raw + row.start, (size_t)row.size}, plan, i);
        if (!run->thread) release_gil(run);
        if (failed) return failed;
        run->firsts[run->group_count] = first;
        run->places[run->group_count++] = i;
        if (add_span(run, first, run->event_count - first, plan->kind_of_span)) return NO_MEMORY;
    }
    return OK;
}

/* ---- to and from Python ---- */

static PyObject *fail(int failed) {
    if (failed == RAISED) return NULL;
    if (failed == NO_MEMORY) return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, "malformed protobuf");
    return NULL;
}

static PyObject *text_bytes(Text text) {
    return PyBytes_FromStringAndSize((const char *)text.at, (Py_ssize_t)text.size);
}

static PyObject *kinds_list(const Found *found) {
    PyObject *list = PyList_New(found->index.count);
    for (u32 i = 0; list && i < found->index.count; i++) {
        const Kind *kind = &found->kinds[i];
        PyObject *row = Py_BuildValue("(NNNK)", text_bytes(kind->topic), text_bytes(kind->source),
                                      text_bytes(kind->hostname), (unsigned long long)kind->logs);
        if (!row || PyList_SetItem(list, i, row)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *scan(PyObject *module, PyObject *raw) {
    (void)module;
    char *at;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(raw, &at, &size)) return NULL;
    Found found = {0};
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = scan_list((const u8 *)at, (size_t)size, &found);
    Py_END_ALLOW_THREADS
    PyObject *answer = NULL;
    if (failed) fail(failed);
    else {
        PyObject *kinds = kinds_list(&found);
        PyObject *rows = PyBytes_FromStringAndSize((const char *)found.rows, (Py_ssize_t)(found.count * sizeof(Row)));
        answer = kinds && rows ? Py_BuildValue("(OO)", kinds, rows) : NULL;
        Py_XDECREF(kinds);
        Py_XDECREF(rows);
    }
    free(found.rows);
    free(found.kinds);
    index_free(&found.index);
    return answer;
}

/* count(raw) -> the LogGroups at the top; -1 when it is no list of them */
static PyObject *count(PyObject *module, PyObject *raw) {
    (void)module;
    char *at;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(raw, &at, &size)) return NULL;
    const u8 *p = (const u8 *)at, *end = p + size;
    long long found = 0;
    Text group;
    while (p < end) {
        if (*p != 0x0A || !(p = read_text(p + 1, end, &group))) return PyLong_FromLong(-1);
        found++;
    }
    return PyLong_FromLongLong(found);
}

static int get_text(PyObject *tuple, Py_ssize_t place, Text *text) {
    char *at;
    Py_ssize_t size;
    PyObject *item = PyTuple_GetItem(tuple, place);
    if (!item || PyBytes_AsStringAndSize(item, &at, &size)) return -1;
    *text = (Text){(const u8 *)at, (size_t)size};
    return 0;
}

static long get_number(PyObject *tuple, Py_ssize_t place) {
    PyObject *item = PyTuple_GetItem(tuple, place);
    return item ? PyLong_AsLong(item) : -1;
}

static void free_plans(Plan *plans, Py_ssize_t count) {
    for (Py_ssize_t i = 0; plans && i < count; i++) {
        for (size_t j = 0; j < plans[i].look.path_count; j++) free(plans[i].look.paths[j].below);
        free(plans[i].look.paths);
    }
    free(plans);
}

/* (name, [a name below it]) */
static int get_path(PyObject *row, Path *path) {
    PyObject *below = PyTuple_GetItem(row, 1);
    if (!below || get_text(row, 0, &path->name)) return -1;
    Py_ssize_t count = PyTuple_Size(below);
    if (count < 0 || !(path->below = calloc((size_t)count + 1, sizeof(Below)))) return -1;
    path->count = (size_t)count;
    for (Py_ssize_t i = 0; i < count; i++)
        if (get_text(below, i, &path->below[i].name)) return -1;
    return 0;
}

/* (time, host, rest, [path]) */
static int get_look(PyObject *row, Look *look) {
    PyObject *paths = PyTuple_GetItem(row, 3);
    if (!paths || get_text(row, 0, &look->time) || get_text(row, 1, &look->host) || get_text(row, 2, &look->rest)) return -1;
    Py_ssize_t count = PyTuple_Size(paths);
    if (count < 0 || !(look->paths = calloc((size_t)count + 1, sizeof(Path)))) return -1;
    look->path_count = (size_t)count;
    for (Py_ssize_t i = 0; i < count; i++)
        if (get_path(PyTuple_GetItem(paths, i), &look->paths[i])) return -1;
    return 0;
}

/* (mid, constants, opening, end, span kind, with_id, mode, look) */
static int get_plan(PyObject *row, Plan *plan) {
    if (!row || get_text(row, 0, &plan->mid) || get_text(row, 1, &plan->constants) || get_text(row, 2, &plan->opening) ||
        get_text(row, 3, &plan->end))
        return -1;
    plan->kind_of_span = (u32)get_number(row, 4);
    plan->with_id = get_number(row, 5) != 0;
    plan->mode = (int)get_number(row, 6);
    if (PyErr_Occurred()) return -1;
    return plan->mode == LOOK ? get_look(PyTuple_GetItem(row, 7), &plan->look) : 0;
}

static Plan *get_plans(PyObject *list, Py_ssize_t count) {
    Plan *plans = calloc((size_t)count + 1, sizeof *plans);
    for (Py_ssize_t i = 0; plans && i < count; i++) {
        plans[i].kind = (u32)i;
        if (get_plan(PyList_GetItem(list, i), &plans[i])) {
            free_plans(plans, count);
            plans = NULL;
        }
    }
    if (!plans && !PyErr_Occurred()) PyErr_NoMemory();
    return plans;
}

static PyObject *spans_list(const Run *run) {
    PyObject *list = PyList_New((Py_ssize_t)run->span_count);
    for (size_t i = 0; list && i < run->span_count; i++) {
        const Span *span = &run->spans[i];
        PyObject *row = Py_BuildValue("(KKI)", (unsigned long long)span->first, (unsigned long long)span->count,
                                      (unsigned)span->kind);
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *numbers(const u64 *items, size_t count) {
    return PyBytes_FromStringAndSize((const char *)items, (Py_ssize_t)(count * sizeof *items));
}

/* Most bodies fit without growing: what is constant is counted, a sixth is added for escapes and JSON's quotes. */
static size_t guess_size(const Row *rows, size_t count, const Plan *plans, size_t plan_count) {
    size_t size = 4096;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].kind >= plan_count || plans[rows[i].kind].mode == DROP) continue;
        const Plan *plan = &plans[rows[i].kind];
        size += rows[i].logs * (plan->mid.size + plan->constants.size + plan->opening.size + plan->end.size + 160);
        size += (size_t)rows[i].size + (size_t)rows[i].size / 6;
    }
    return size;
}

static PyObject *answer(Run *run) {
    size_t used = (size_t)(run->out - run->out_start);
    if (PyByteArray_Resize(run->data, (Py_ssize_t)used)) return NULL;
    PyObject *spans = spans_list(run);
    if (!spans) return NULL;
    return Py_BuildValue("(ONNNN)", run->data, numbers(run->ends, run->event_count),
                         numbers(run->firsts, run->group_count), numbers(run->places, run->group_count), spans);
}

/* encode(raw, rows, plans, ask, begin, sparse) -> (data, ends, firsts, places, [(first, count, span kind)])
 *
 * ask(kind, [(name, value)], seconds, nanoseconds, tail, place) -> one event. */
static PyObject *encode(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *raw, *rows_bytes, *plan_list, *result = NULL;
    unsigned long long begin;
    Run run = {0};
    Text body, table;
    if (!PyArg_ParseTuple(args, "SSOOKp", &raw, &rows_bytes, &plan_list, &run.ask, &begin, &run.sparse)) return NULL;
    if (get_text(args, 0, &body) || get_text(args, 1, &table)) return NULL;
    Py_ssize_t plan_count = PyList_Size(plan_list);
    if (plan_count < 0) return NULL;
    Plan *plans = get_plans(plan_list, plan_count);
    size_t count = table.size / sizeof(Row);
    const Row *rows = (const Row *)(const void *)table.at;
    run.raw = body.at;
    run.limit = body.at + body.size;
    run.begin = begin;
    run.tags.tags = 1;
    if (!plans) goto done;
    run.firsts = malloc((count + 1) * sizeof(u64));
    run.places = malloc((count + 1) * sizeof(u64));
    run.room = guess_size(rows, count, plans, (size_t)plan_count);
    run.data = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)run.room);
    if (!run.data) goto done;
    run.out = run.out_start = (u8 *)PyByteArray_AsString(run.data);
    int failed = !run.firsts || !run.places ? NO_MEMORY : OK;
    run.thread = PyEval_SaveThread();
    if (!failed) failed = encode_rows(&run, rows, count, plans, (size_t)plan_count);
    hold_gil(&run);
    result = failed ? fail(failed) : answer(&run);
done:
    Py_XDECREF(run.data);
    names_free(&run.names);
    names_free(&run.tags);
    free(run.ends);
    free(run.firsts);
    free(run.places);
    free(run.spans);
    free(run.tail);
    free_plans(plans, plan_count);
    return result;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_O, "scan(raw) -> ([(topic, source, hostname, logs)], rows); ValueError when malformed"},
    {"count", count, METH_O, "count(raw) -> LogGroups at the top; -1 when it is no list of them"},
    {"encode", encode, METH_VARARGS, "encode(raw, rows, plans, ask, begin, sparse) -> (data, ends, firsts, places, spans)"},
    {NULL, NULL, 0, NULL},
};

static int start(PyObject *module) {
    (void)module;
    PyObject *text = PyUnicode_FromString("a seed for the tables");
    if (!text) return -1;
    seed = (u64)PyObject_Hash(text) * 0x9E3779B97F4A7C15ull | 1;
    Py_DECREF(text);
    make_tables();
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)start}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "worker._encoder", "LogGroupList bytes to HEC events.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__encoder(void);
PyMODINIT_FUNC PyInit__encoder(void) {
    return PyModuleDef_Init(&definition);
}
