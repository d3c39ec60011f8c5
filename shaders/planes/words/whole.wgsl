// whole: stores whole words.

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_words: array<u32>;

// `lane` is the bits of a word and a mask of them, which is full.
fn side_store(at: u32, lane: vec2<u32>) {
    side_words[at] = lane.x;
}
