// added: each query head has a logit of its own that joins the softmax's sum and has no value.

@group(0) @binding(6) var<storage, read> sink_logits: array<f32>;

// By what a row's sums are multiplied, and the sum of its weights.
fn joined_sink(head: u32, largest: f32, weight: f32) -> vec2<f32> {
    let sink = nan_of_infinity(sink_logits[params.sink_offset + head]);
    let joined = select(max(largest, sink), largest, is_hidden(sink));
    let factor = kept(largest, joined);
    return vec2<f32>(factor, weight * factor + kept(sink, joined));
}
