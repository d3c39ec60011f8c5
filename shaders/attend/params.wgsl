// params: what attend and combine are given, and where rows lie.

override GROUP: u32;     // query heads of a KV head
override WRITTEN: bool;  // queries are the rows just written

struct Params {
    tokens: u32,          // queries of each sequence, at most
    query_offset: u32,    // elements before the first, and from one to the next
    query_sequence: u32,
    query_head: u32,
    query_token: u32,
    output_offset: u32,
    output_sequence: u32,
    output_head: u32,
    output_token: u32,
    mask_offset: u32,
    mask_sequence: u32,
    mask_head: u32,
    mask_token: u32,
    scale: f32,
    softcap: f32,
    sink_offset: u32,     // elements before the first sink
}

@group(0) @binding(0) var<uniform> params: Params;

// The queries of a sequence for one KV head, and the first row of a tile of them.
struct Place {
    sequence: u32,
    head: u32,      // KV head
    first_row: u32, // [token, query head of the KV head]
    before: u32,    // queries of the sequences before it, where queries are packed
    length: u32,    // of the sequence
    start: u32,     // position of the first row just written
    count: u32,     // queries
}

// A query head of a token.
struct Row {
    inside: bool,
    token: u32,
    head: u32,
    query: u32, // elements before its query, its output and its mask
    output: u32,
    mask: u32,
}

// Queries of a sequence: the rows that the last update wrote, `length - start`, or as many as there may be.
fn count_of(length: u32, start: u32) -> u32 {
    return select(params.tokens, min(length - start, params.tokens), WRITTEN);
}

// Row `index` of the tile.
fn row_of(place: Place, index: u32) -> Row {
    let sequence = place.sequence;
    let token = (place.first_row + index) / GROUP;
    let head = place.head * GROUP + (place.first_row + index) % GROUP;
    let at = place.before + token;
    let query = sequence * params.query_sequence + head * params.query_head + at * params.query_token;
    let output = sequence * params.output_sequence + head * params.output_head + at * params.output_token;
    let mask = sequence * params.mask_sequence + head * params.mask_head + at * params.mask_token;
    return Row(
        token < place.count,
        token,
        head,
        params.query_offset + query,
        params.output_offset + output,
        params.mask_offset + mask,
    );
}
