// choose: the next token of each row that wants one: the largest logit, and of equal ones the first. With a
// temperature, each logit gets Gumbel noise, so that the largest is drawn from the softmax. The noise depends on the
// seed, the position and the token alone, so a sequence is continued in the same way in every batch.
//
// Grid:    x counts wanted rows; a workgroup each.
// Shapes:  logits  [wanted row, VOCABULARY]
//          wanted  [wanted row], its row
//          tokens  [row] of (token, position)
//          chosen  [wanted row]

override VOCABULARY: u32;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> wanted: array<u32>;
@group(0) @binding(3) var<storage, read> tokens: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;

var<workgroup> best_values: array<f32, WORKGROUP>;
var<workgroup> best_tokens: array<u32, WORKGROUP>;

// PCG (Jarzynski and Olano, "Hash Functions for GPU Rendering", 2020).
fn hashed(number: u32) -> u32 {
    let state = number * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn gumbel(position: u32, token: u32) -> f32 {
    let bits = hashed(token ^ hashed(position ^ hashed(step.seed)));
    let uniform_number = (f32(bits >> 8u) + 0.5) / 16777216.0;
    return -log(-log(uniform_number));
}

fn is_better(value: f32, token: u32, best: f32, best_token: u32) -> bool {
    return value > best || (value == best && token < best_token);
}

@compute @workgroup_size(WORKGROUP)
fn choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let position = tokens[wanted[group.x]].y;
    var best = -3.0e38;
    var best_token = VOCABULARY - 1u;
    for (var token = local; token < VOCABULARY; token += WORKGROUP) {
        var value = logits[group.x * VOCABULARY + token];
        if step.temperature > 0.0 {
            value = value / step.temperature + gumbel(position, token);
        }
        if is_better(value, token, best, best_token) {
            best = value;
            best_token = token;
        }
    }
    best_values[local] = best;
    best_tokens[local] = best_token;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half && is_better(best_values[local + half], best_tokens[local + half], best_values[local], best_tokens[local]) {
            best_values[local] = best_values[local + half];
            best_tokens[local] = best_tokens[local + half];
        }
        workgroupBarrier();
    }
    if local == 0u {
        chosen[group.x] = best_tokens[0];
    }
}
