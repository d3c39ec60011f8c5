// all: every row sees all positions of the chunk. A row past the queries is computed too, and not written.

fn side_scores(work: Work, index: u32, at: u32, products: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
#for p in 4
        nan_of_infinity(capped(products[{p}] * params.scale)),
#end
    );
}

fn side_marked(scores: vec4<f32>, weights: vec4<f32>) -> vec4<f32> {
    return weights;
}

fn side_weighted(values: mat4x4<f32>, weights: vec4<f32>) -> vec4<f32> {
    return values * weights;
}
