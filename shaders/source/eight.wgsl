// eight: eight elements as stored: one vector of a 16-bit format, two of a 32-bit one.

struct Eight {
    low: vec4<u32>,
    high: vec4<u32>,
}
