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
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// A query head of a token of a plane.
struct Row {
    inside: bool,
    index: u32, // in its plane, [token, query head of the KV head]
    token: u32,
    query: u32,  // elements before its query, its output and its mask
    output: u32,
    mask: u32,
}

// Queries of a sequence: the rows that the last update wrote, `length - start`, or as many as there may be.
fn count_of(length: u32, start: u32) -> u32 {
    return select(params.tokens, min(length - start, params.tokens), WRITTEN);
}

// `count` is that of the plane's sequence.
fn row_of(plane: u32, index: u32, count: u32) -> Row {
    let sequence = plane / cache_heads;
    let token = index / GROUP;
    let head = plane % cache_heads * GROUP + index % GROUP;
    let query = sequence * params.query_sequence + head * params.query_head + token * params.query_token;
    let output = sequence * params.output_sequence + head * params.output_head + token * params.output_token;
    let mask = sequence * params.mask_sequence + head * params.mask_head + token * params.mask_token;
    return Row(
        token < count,
        index,
        token,
        params.query_offset + query,
        params.output_offset + output,
        params.mask_offset + mask,
    );
}
