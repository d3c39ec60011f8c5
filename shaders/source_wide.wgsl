// source_wide: moves eight elements of the caller's rows into the cache and converts them. Needs offset
// and strides that are multiples of 16 bytes. Joined once as key_ and once as value_.
//
// Bounds:  the host proves that the window holds every token of the chunk.

@group(0) @binding(SIDE_SOURCE_BINDING) var<storage, read> side_source: array<vec4<u32>>;

fn side_convert_pair(low: u32, high: u32) -> u32 {
    return side_convert(low) | (side_convert(high) << 16u);
}

fn side_convert_four(bits: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(side_convert(bits.x), side_convert(bits.y), side_convert(bits.z), side_convert(bits.w));
}

// Two 16-bit elements a word become two 32-bit elements.
fn side_widen(words: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn side_narrow(low: vec4<u32>, high: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        side_convert_pair(low.x, low.y),
        side_convert_pair(low.z, low.w),
        side_convert_pair(high.x, high.y),
        side_convert_pair(high.z, high.w),
    );
}

fn side_move(at: u32, sequence: u32, head: u32, token: u32, dim: u32) {
    let element = chunk.side_offset
        + (sequence - chunk.first_sequence) * chunk.side_sequence_stride
        + (head - chunk.first_head) * chunk.side_head_stride
        + (token - chunk.first_token) * chunk.side_token_stride
        + dim;
    let from_vector = element / (4u * SIDE_SOURCE_LANES);
    if SIDE_SAME_FORMAT {
        for (var i = 0u; i < SIDE_UNIT_VECTORS; i++) {
            side_planes[at + i] = side_source[from_vector + i];
        }
        return;
    }
    var low = side_source[from_vector];
    var high = low;
    if SIDE_SOURCE_LANES == 1u {
        high = side_source[from_vector + 1u];
    } else {
        low = side_widen(high.xy);
        high = side_widen(high.zw);
    }
    if SIDE_LANES == 1u {
        side_planes[at] = side_convert_four(low);
        side_planes[at + SIDE_UNIT_VECTORS - 1u] = side_convert_four(high);
    } else {
        side_planes[at] = side_narrow(low, high);
    }
}
