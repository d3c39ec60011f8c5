// strided: each sequence has room for the same number of queries. The grid's z counts planes, [sequence, KV head].

fn place_of(tile: u32, plane: u32, local: u32) -> Place {
    let sequence = plane / cache_heads;
    let length = cache_length(sequence);
    let start = cache_start(sequence);
    return Place(sequence, plane % cache_heads, tile * ROWS, 0u, length, start, count_of(length, start));
}
