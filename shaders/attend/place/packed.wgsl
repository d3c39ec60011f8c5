// packed: the queries of a sequence follow those of the sequence before it, and so do its tiles: none is of padding.
// The grid's z counts KV heads.
//
// A workgroup finds the sequence of its tile by the lengths on the device. Each thread counts the tiles and queries of
// some neighbouring sequences; the one whose sequences have the tile tells all.

// The most that there can be. Those past the batch have the last tiles, which no grid has.
override SEQUENCES: u32;

// (tiles, queries) of each thread's sequences
var<workgroup> shared_counts: array<vec2<u32>, WORKGROUP>;
// (sequence, tile of the sequence, queries before it, whether there is one)
var<workgroup> shared_place: vec4<u32>;

fn counts_of(sequence: u32) -> vec2<u32> {
    let count = count_of(cache_length(sequence), cache_start(sequence));
    return vec2<u32>((count * GROUP + ROWS - 1u) / ROWS, count);
}

fn place_of(tile: u32, head: u32, local: u32) -> Place {
    let share = (SEQUENCES + WORKGROUP - 1u) / WORKGROUP;
    let first = min(local * share, SEQUENCES);
    let last = min(first + share, SEQUENCES);
    var own = vec2<u32>();
    for (var sequence = first; sequence < last; sequence++) {
        own += counts_of(sequence);
    }
    shared_counts[local] = own;
    if local == 0u {
        shared_place = vec4<u32>();
    }
    workgroupBarrier();
    var before = vec2<u32>();
    for (var i = 0u; i < local; i++) {
        before += shared_counts[i];
    }
    for (var sequence = first; sequence < last; sequence++) {
        let counts = counts_of(sequence);
        if tile >= before.x && tile - before.x < counts.x {
            shared_place = vec4<u32>(sequence, tile - before.x, before.y, 1u);
        }
        before += counts;
    }
    let found = workgroupUniformLoad(&shared_place);
    let length = cache_length(found.x);
    let start = cache_start(found.x);
    return Place(found.x, head, found.y * ROWS, found.z, length, start, found.w * count_of(length, start));
}
