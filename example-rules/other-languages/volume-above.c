// volume-above in C: fires each time that so much volume has been traded at or above a price.

#include <stdint.h>

typedef struct { double price, volume; int64_t time_ms; uint64_t conditions; } Tick;
typedef struct { double price, volume; } Params;
typedef struct { double volume; int64_t trades; } State;
typedef struct { double evidence[4], wake_low, wake_high; int64_t wake_until_ms; } Verdict;

enum { HOLD = 0, FIRE = 1, ASLEEP = 2 };

__attribute__((export_name("evaluate")))
int32_t evaluate(const Tick *tick, const Params *params, State *state, Verdict *verdict) {
    if (tick->price < params->price) {
        // Nothing counts until the price is back: the host need not ask before.
        verdict->wake_low = -__builtin_inf();
        verdict->wake_high = params->price;
        verdict->wake_until_ms = INT64_MAX;
        return HOLD | ASLEEP;
    }
    state->volume += tick->volume;
    state->trades += 1;
    if (state->volume < params->volume) return HOLD;
    verdict->evidence[0] = tick->price;
    verdict->evidence[1] = state->volume;
    verdict->evidence[2] = (double)state->trades;
    *state = (State){0};
    return FIRE;
}

// The manifest becomes a custom section; an __attribute__((section(…))) would make data of it.
__asm__(".section .custom_section.tocsin.manifest,\"\",@\n.incbin \"volume-above.json\"\n.text\n");
