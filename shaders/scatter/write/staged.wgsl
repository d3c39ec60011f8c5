// staged: the elements of a thread that helps to quantise a block, and by what they are multiplied.

// The elements that a thread has read, as the bits of f32. In Q4_0 `second` holds elements of the block's upper half.
struct Staged {
    first: vec4<u32>,
    second: vec4<u32>,
}

// By what elements are multiplied, so that they become codes in the units of a format. A driver rounds products of f32
// like a CPU, but may flush subnormal ones: the elements of a block of tiny numbers are first raised by 2^64.
struct Inverse {
    negative: u32,  // the sign bit
    normal: f32,    // of elements that are normal numbers
    subnormal: f32, // of the significands of others; 0 where their codes are those of 0
    factor: f32,    // of both, then
}
