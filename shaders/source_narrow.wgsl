// source_narrow: reads one element of the caller's rows, at any offset and stride, and converts it.
// Joined once as key_ and once as value_.

@group(0) @binding(SIDE_SOURCE_BINDING) var<storage, read> side_source: array<u32>;

fn side_element(place: Place, token: u32, dim: u32) -> u32 {
    let element = side_source_row(place, token) + dim;
    let word = side_source[element / SIDE_SOURCE_LANES];
    let half = (word >> ((element % SIDE_SOURCE_LANES) * 16u)) & 0xffffu;
    return side_convert(select(half, word, SIDE_SOURCE_LANES == 1u));
}
