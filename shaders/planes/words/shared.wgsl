// shared: stores words of which another thread may store the other half: of a 16-bit format with an odd head size, in
// which a row ends in the word in which the next one begins.
//
// Bounds:  threads that share a word have other bits of it, so their order does not matter.

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_words: array<atomic<u32>>;

// `lane` is the bits of a word and a mask of them; the other bits stay.
fn side_store(at: u32, lane: vec2<u32>) {
    if lane.y == 0xffffffffu {
        atomicStore(&side_words[at], lane.x);
    } else {
        atomicAnd(&side_words[at], ~lane.y);
        atomicOr(&side_words[at], lane.x);
    }
}
