// query: a vector of a row of the queries; zeros past the head size, and of a row past the queries.

#import ../../format/{bits,f16,bf16}/decode.wgsl as query

override QUERY_LANES: u32; // elements of a word: 2 of a 16-bit format, else 1

@group(0) @binding(1) var<storage, read> queries: array<u32>;

fn query_element(row: Row, dim: u32) -> f32 {
    if !row.inside || dim >= cache_key_dim {
        return 0.0;
    }
    let at = row.query + dim;
    if QUERY_LANES == 1u {
        return bitcast<f32>(queries[at]);
    }
    return bitcast<f32>(query_decode((queries[at / 2u] >> (at % 2u * 16u)) & 0xffffu));
}

fn query_vector(row: Row, vector: u32) -> vec4<f32> {
    return vec4<f32>(
#for i in 4
        query_element(row, 4u * vector + {i}u),
#end
    );
}
