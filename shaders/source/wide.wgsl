// wide: reads eight elements of the caller's rows and converts them. Requires an offset and strides that are multiples
// of 16 bytes.
//
// Shapes:  side_source   strided [sequence, head, token, dim], in vectors of 16 bytes
// Bounds:  the host ensures that the window holds every row.

#import row/{strided,token}.wgsl as side
#import convert.wgsl as side
#import ../planes/side.wgsl as side
#import eight.wgsl

override SIDE_SOURCE_LANES: u32; // elements in a word: 2 for a 16-bit format, else 1
override SIDE_SAME_FORMAT: bool; // source and cache have the same format

@group(0) @binding(SIDE_SOURCE_BINDING) var<storage, read> side_source: array<vec4<u32>>;

fn side_convert_four(bits: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(side_convert(bits.x), side_convert(bits.y), side_convert(bits.z), side_convert(bits.w));
}

// Unpacks the two 16-bit elements of each word, one per component.
fn side_spread(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn side_eight(place: Place, token: u32, dim: u32) -> Eight {
    let element = side_source_row(place, token) + dim;
    let from_vector = element / (4u * SIDE_SOURCE_LANES);
    var low = side_source[from_vector];
    var high = low;
    if SIDE_SOURCE_LANES == 1u {
        high = side_source[from_vector + 1u];
    }
    if SIDE_SAME_FORMAT {
        return Eight(low, high);
    }
    if SIDE_SOURCE_LANES == 2u {
        low = side_spread(high.xy);
        high = side_spread(high.zw);
    }
    low = side_convert_four(low);
    high = side_convert_four(high);
    if SIDE_LANES == 2u {
        let even = vec4<u32>(low.xz, high.xz);
        let odd = vec4<u32>(low.yw, high.yw);
        low = even | (odd << vec4<u32>(16u));
    }
    return Eight(low, high);
}
