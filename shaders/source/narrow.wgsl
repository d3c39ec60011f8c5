// narrow: reads one element of the caller's rows and converts it. Works for every offset and stride.
//
// Shapes:  side_source   strided [sequence, head, token, dim], in words
// Bounds:  the host ensures that the window holds every row.

#import row/{strided,token}.wgsl as side
#import convert.wgsl as side

override SIDE_SOURCE_LANES: u32; // elements in a word: 2 for a 16-bit format, else 1

@group(0) @binding(SIDE_SOURCE_BINDING) var<storage, read> side_source: array<u32>;

fn side_element(place: Place, token: u32, dim: u32) -> u32 {
    let element = side_source_row(place, token) + dim;
    let word = side_source[element / SIDE_SOURCE_LANES];
    let half = (word >> ((element % SIDE_SOURCE_LANES) * 16u)) & 0xffffu;
    return side_convert(select(half, word, SIDE_SOURCE_LANES == 1u));
}
