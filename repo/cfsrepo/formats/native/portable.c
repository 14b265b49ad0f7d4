/* One message after the other, in plain C. */

#include <string.h>

#include "constants.h"
#include "engines.h"

#define NAME sha256_portable
#define TARGET
#define LANES 1
#define BITS 32
#include "lanes.h"

#define NAME sha512_portable
#define TARGET
#define LANES 1
#define BITS 64
#include "lanes.h"

