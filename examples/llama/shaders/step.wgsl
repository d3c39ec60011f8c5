// step: what all kernels know of the step under way.

struct Step {
    rows: u32,        // tokens of all sequences
    wanted: u32,      // rows that want logits
    seed: u32,
    temperature: f32, // 0: the best token is taken
}
