// shared: stores words that two threads may share. In a 16-bit format with an odd head size, a row can end in the word
// in which the next one begins.
//
// Bounds:  threads that share a word write different bits of it, so their order does not matter.

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_words: array<atomic<u32>>;

// `lane` is the bits to store and their mask. The other bits of the word are kept.
fn side_store(at: u32, lane: vec2<u32>) {
    if lane.y == 0xffffffffu {
        atomicStore(&side_words[at], lane.x);
    } else {
        atomicAnd(&side_words[at], ~lane.y);
        atomicOr(&side_words[at], lane.x);
    }
}
