// none: the softmax is over the positions alone.

// By what a row's sums are multiplied, and the sum of its weights.
fn joined_sink(head: u32, largest: f32, weight: f32) -> vec2<f32> {
    return vec2<f32>(1.0, weight);
}
