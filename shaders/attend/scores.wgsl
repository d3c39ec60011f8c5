// scores: what happens to a score before the softmax, and the exponential of the softmax. A NaN that is seen
// must come through, but drivers may lose it in a comparison, a maximum, a clamp or an exponential: so it is told by
// its bits.

override CAPPED: bool;

// The score of what is not seen. What is no larger has no weight.
const HIDDEN = -3.0e38;
const HIDDEN_BITS = 0xff61b1e6u;
// In place of a score of minus infinity that is seen.
const LEAST = -3.2e38;
// In place of a weight: the position is not seen, and has no part in the result whatever it holds.
const UNSEEN = -1.0;
const UNSEEN_BITS = 0xbf800000u;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// From HIDDEN down to minus infinity.
fn is_hidden(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return bits >= HIDDEN_BITS && bits <= 0xff800000u;
}

fn is_unseen(weight: f32) -> bool {
    return bitcast<u32>(weight) == UNSEEN_BITS;
}

// Of an infinite score the softmax is NaN; some drivers lose the difference of two infinities.
fn nan_of_infinity(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    return select(x, bitcast<f32>(bits | 0x00400000u), bits == 0x7f800000u);
}

fn exp_or_nan(x: f32) -> f32 {
    return select(exp(x), x, is_nan(x));
}

fn capped(score: f32) -> f32 {
    if CAPPED {
        let part = score / params.softcap;
        if abs(part) < 0.25 {
            // The first terms of the hyperbolic tangent: drivers lose the digits of a small one.
            let y = part * part;
            return score + score * y * (-1.0 / 3.0 + y * (2.0 / 15.0 + y * (-17.0 / 315.0 + y * (62.0 / 2835.0))));
        }
        // It is 1 from far below 15 on; some drivers overflow beyond.
        return select(params.softcap * tanh(clamp(part, -15.0, 15.0)), part, is_nan(part));
    }
    return score;
}

// By what sums are multiplied that were made with another largest score. Of nothing seen so far, nothing is kept.
fn kept(before: f32, largest: f32) -> f32 {
    return select(exp_or_nan(before - largest), 0.0, is_hidden(before));
}

// Weights of four scores; 0 of those that are hidden.
fn weights_of(scores: vec4<f32>, largest: f32) -> vec4<f32> {
    return vec4<f32>(
#for p in 4
        select(exp_or_nan(scores[{p}] - largest), 0.0, is_hidden(scores[{p}])),
#end
    );
}
