// some: a row may see none of a position of the chunk. What it does not see has no part in the result, whatever it
// holds: a weight of UNSEEN marks it. A score of minus infinity that it sees has a weight of 0.

#import ../mask/{none,added}.wgsl

fn side_score(work: Work, row: Row, at: u32, product: f32) -> f32 {
    let position = seen_position(work.seen, min(at, work.end - 1u));
    if at >= work.end || !is_seen(work.place, row, position) {
        return HIDDEN;
    }
    let added = mask_at(row, position);
    let score = nan_of_infinity(capped(product * params.scale) + added);
    return select(select(score, LEAST, is_hidden(score)), HIDDEN, is_hidden(added));
}

fn side_scores(work: Work, index: u32, at: u32, products: vec4<f32>) -> vec4<f32> {
    let row = row_of(work.place, index);
    return vec4<f32>(
#for p in 4
        side_score(work, row, at + {p}u * GROUPS, products[{p}]),
#end
    );
}

fn side_marked(scores: vec4<f32>, weights: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
#for p in 4
        select(weights[{p}], UNSEEN, bitcast<u32>(scores[{p}]) == HIDDEN_BITS),
#end
    );
}

fn side_weighted(values: mat4x4<f32>, weights: vec4<f32>) -> vec4<f32> {
    var sum = vec4<f32>();
#for p in 4
    sum += select(weights[{p}] * values[{p}], vec4<f32>(), is_unseen(weights[{p}]));
#end
    return sum;
}
