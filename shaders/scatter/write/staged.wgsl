// staged: the elements of a thread that helps to quantise a block, and the search for the largest of them.

// The elements that a thread has read, as the bits of f32. In Q4_0 `second` holds elements of the block's upper half.
struct Staged {
    first: vec4<u32>,
    second: vec4<u32>,
}

// Returns the number of larger magnitude, or `a` if the magnitudes are equal.
fn larger(a: u32, b: u32) -> u32 {
    return select(a, b, (b & 0x7fffffffu) > (a & 0x7fffffffu));
}

fn largest_of(elements: vec4<u32>) -> u32 {
    return larger(larger(elements.x, elements.y), larger(elements.z, elements.w));
}
