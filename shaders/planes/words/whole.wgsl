// whole: stores whole words, each of which a single thread writes.

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_words: array<u32>;

// `lane` is the bits to store and their mask, which covers the whole word.
fn side_store(at: u32, lane: vec2<u32>) {
    side_words[at] = lane.x;
}
