// pack: quantises blocks of 32 elements. A block has one thread for each word of its codes, and every element of the
// source is read once. Elements past the head size are zero. The pack of the format defines SIDE_BLOCK_WORDS,
// SIDE_UNIT, `side_ordered`, `side_larger`, `side_scale` and `side_codes`.
//
// Threads share their results through workgroup memory, with barriers between `side_stage`, `side_put` and
// `side_finish` (see scatter/write/together).
//
// Unit:    one word of codes of a row. A row has the units of whole pairs of blocks, because the scales of a pair share
//          a word. A pair never spans two workgroups.
// Bounds:  a unit at or past `run.end`, or past the last block of a row, stores no codes.

#import ../../scatter/write/staged.wgsl
#import ../float/reciprocal.wgsl
#import ../f16/f16.wgsl
#import ../../planes/side.wgsl as side

override SIDE_BLOCKS: u32; // blocks in a row

// [thread]: the largest of each thread's `first` elements, and of its `second` elements; the scale of its block in f16.
var<workgroup> side_largest: array<u32, WORKGROUP_SIZE>;
var<workgroup> side_largest_later: array<u32, WORKGROUP_SIZE>;
var<workgroup> side_halves: array<u32, WORKGROUP_SIZE>;

fn side_read(place: Place, token: u32, dim: u32) -> u32 {
    var bits = 0u;
    if dim < SIDE_DIM {
        bits = side_element(place, token, dim);
    }
    return bits;
}

fn side_read_four(place: Place, token: u32, dim: u32) -> vec4<u32> {
    return vec4<u32>(
        side_read(place, token, dim),
        side_read(place, token, dim + 1u),
        side_read(place, token, dim + 2u),
        side_read(place, token, dim + 3u),
    );
}

// Reads the elements of a thread, and shares the largest of them.
fn side_stage(place: Place, run: Run, unit: u32, local: u32) -> Staged {
    let slot = run.first + unit / SIDE_ROW_PARTS;
    let part = unit % SIDE_ROW_PARTS;
    var staged = Staged();
    if place.inside && slot >= run.start && slot < run.end {
        let token = run.token + (slot - run.start);
        let dim = part / SIDE_BLOCK_WORDS * 32u + part % SIDE_BLOCK_WORDS * 4u;
        staged.first = side_read_four(place, token, dim);
        if SIDE_BLOCK_WORDS == 4u {
            staged.second = side_read_four(place, token, dim + 16u);
        }
    }
    side_largest[local] = side_largest_of(side_ordered(staged.first));
    side_largest_later[local] = side_largest_of(side_ordered(staged.second));
    return staged;
}

fn side_largest_of(elements: vec4<u32>) -> u32 {
    return side_larger(side_larger(elements.x, elements.y), side_larger(elements.z, elements.w));
}

// Returns the element of largest magnitude of a block, or the first of several. `first` is the block's first thread.
fn side_largest_from(first: u32) -> u32 {
    let below = side_largest_of(vec4<u32>(
        side_largest[first],
        side_largest[first + 1u],
        side_largest[first + 2u],
        side_largest[first + 3u],
    ));
    var above = vec4<u32>();
    if SIDE_BLOCK_WORDS == 4u {
        above = vec4<u32>(
            side_largest_later[first],
            side_largest_later[first + 1u],
            side_largest_later[first + 2u],
            side_largest_later[first + 3u],
        );
    } else {
        above = vec4<u32>(
            side_largest[first + 4u],
            side_largest[first + 5u],
            side_largest[first + 6u],
            side_largest[first + 7u],
        );
    }
    return side_larger(below, side_largest_of(above));
}

// Whether a block holds an infinity or a NaN. Its scale becomes NaN and its codes zero.
fn side_is_broken(largest: u32) -> bool {
    return (largest & 0x7fffffffu) >= 0x7f800000u;
}

// Returns 1 ÷ scale, or 0 if the scale is 0 or the quotient overflows.
fn side_inverse(largest: u32, scale: u32) -> Inverse {
    let magnitude = scale & 0x7fffffffu;
    let inverse = float_reciprocal(magnitude);
    let none = magnitude == 0u || inverse >= 0x7f800000u;
    // Below 2^-90.
    let tiny = (largest & 0x7fffffffu) < 0x12800000u;
    let factor = inverse + (SIDE_UNIT << 23u) - select(0u, 64u << 23u, tiny);
    return Inverse(
        scale & 0x80000000u,
        select(1.0, 0x1p64f, tiny),
        select(0.0, 0x1p-85f, tiny),
        select(bitcast<f32>(factor), 0.0, none),
    );
}

// The magnitudes of products, rounded to 24 bits, in units of 2^-SIDE_UNIT, truncated.
fn side_products(elements: vec4<u32>, inverse: Inverse) -> vec4<u32> {
    let magnitude = elements & vec4<u32>(0x7fffffffu);
    let normal = bitcast<vec4<f32>>(magnitude) * inverse.normal;
    let subnormal = vec4<f32>(magnitude) * inverse.subnormal;
    return vec4<u32>(select(normal, subnormal, magnitude < vec4<u32>(0x800000u)) * inverse.factor);
}

fn side_signed(products: vec4<u32>, elements: vec4<u32>, inverse: Inverse) -> vec4<u32> {
    let negative = (elements ^ vec4<u32>(inverse.negative)) >= vec4<u32>(0x80000000u);
    return select(products, ~products + vec4<u32>(1u), negative);
}

// Stores the codes, and shares the scale with the thread that stores the scales of the pair.
fn side_put(place: Place, run: Run, unit: u32, local: u32, staged: Staged) {
    let slot = run.first + unit / SIDE_ROW_PARTS;
    let part = unit % SIDE_ROW_PARTS;
    let token = place.inside && slot >= run.start && slot < run.end && part < SIDE_BLOCKS * SIDE_BLOCK_WORDS;
    var codes = 0u;
    var half = 0u;
    if token {
        let largest = side_largest_from(local - part % SIDE_BLOCK_WORDS);
        let scale = side_scale(largest);
        let broken = side_is_broken(largest);
        half = select(f16_encode(scale), 0x7e00u, broken);
        codes = select(side_codes(staged, side_inverse(largest, scale)), 0u, broken);
    }
    if place.inside && slot < run.end && part < SIDE_BLOCKS * SIDE_BLOCK_WORDS {
        side_planes[side_codes_at(place.plane, slot, part)] = codes;
    }
    side_halves[local] = half;
}

// Stores the scales of a pair of blocks, in the pair's first thread.
fn side_finish(place: Place, run: Run, unit: u32, local: u32) {
    let slot = run.first + unit / SIDE_ROW_PARTS;
    let part = unit % SIDE_ROW_PARTS;
    if slot < run.end && part % (2u * SIDE_BLOCK_WORDS) == 0u {
        let scales = side_halves[local] | (side_halves[local + SIDE_BLOCK_WORDS] << 16u);
        side_planes[side_scales_at(place.plane, slot, part / (2u * SIDE_BLOCK_WORDS))] = scales;
    }
}
