// staged: what the threads of a block tell each other.

// What a thread has read of a block: elements in order, those of Q4_0 from both halves.
struct Staged {
    first: vec4<u32>,
    second: vec4<u32>,
}

// The number of the larger magnitude, the first of two equal ones.
fn larger(a: u32, b: u32) -> u32 {
    return select(a, b, (b & 0x7fffffffu) > (a & 0x7fffffffu));
}

fn largest_of(elements: vec4<u32>) -> u32 {
    return larger(larger(elements.x, elements.y), larger(elements.z, elements.w));
}
