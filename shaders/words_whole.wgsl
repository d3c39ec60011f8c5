// words_whole: stores whole words. Joined once as key_ and once as value_.

@group(0) @binding(SIDE_PLANES_BINDING) var<storage, read_write> side_planes: array<u32>;

// `lane` is the bits of a word and a mask of them, which is full.
fn side_store(at: u32, lane: vec2<u32>) {
    side_planes[at] = lane.x;
}
