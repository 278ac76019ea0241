/* A simulation of the part of libnvidia-nscq.so.2 that cocoon-nvml calls: four
 * switches whose reports are made up. Values are passed to the callback whole,
 * as the library's header has them. Tests compile it; nothing else uses it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int8_t nscq_rc_t;
typedef struct { uint8_t bytes[16]; } nscq_uuid_t;
typedef struct { char data[64]; } nscq_label_t;
typedef struct { nscq_rc_t rc; void *session; } nscq_session_result_t;
typedef struct { uint32_t report_size; uint8_t report[0x2000]; } report_t;
typedef struct { uint8_t cert_chain[0x1400]; uint32_t cert_chain_size; } cert_t;
typedef void (*fn_t)(void);
typedef void (*report_fn)(const nscq_uuid_t *, nscq_rc_t, report_t, void *);
typedef void (*cert_fn)(const nscq_uuid_t *, nscq_rc_t, cert_t, void *);

static uint8_t nonce[32];
static int dummy;

static int asked(const char *word) {
	const char *s = getenv("COCOON_SIM");
	return s && strstr(s, word);
}

nscq_session_result_t nscq_session_create(uint32_t flags) {
	nscq_session_result_t r = {asked("rdt") ? 1 : 0, &dummy};
	if (flags != 1) r.rc = -1;
	return r;
}
void nscq_session_destroy(void *s) { (void)s; }
nscq_rc_t nscq_session_set_input(void *s, uint32_t flags, void *in, uint32_t n) {
	if (s != &dummy || flags || n != sizeof(nonce)) return -5;
	memcpy(nonce, in, n);
	return 0;
}
nscq_rc_t nscq_uuid_to_label(const nscq_uuid_t *u, nscq_label_t *l, uint32_t flags) {
	(void)flags;
	strcpy(l->data, "SWX-0");
	l->data[4] += u->bytes[15];
	return 0;
}
static const char pem[] = "-----BEGIN CERTIFICATE-----\nBwgJ\n-----END CERTIFICATE-----\n";
nscq_rc_t nscq_session_path_observe(void *s, const char *path, fn_t f, void *data, uint32_t flags) {
	(void)s;
	(void)flags;
	for (int i = 3; i >= 0; i--) {
		nscq_uuid_t u = {{0xaa}};
		u.bytes[15] = i;
		if (strcmp(path, "/{nvswitch}/config/attestation_report") == 0) {
			report_t r;
			memset(&r, 0xee, sizeof(r));
			r.report[0] = 0x20 + i;
			memcpy(r.report + 1, nonce, sizeof(nonce));
			r.report_size = 1 + sizeof(nonce);
			((report_fn)f)(&u, asked("badswitch") && i == 2 ? -7 : 0, r, data);
		} else if (strcmp(path, "/{nvswitch}/config/certificate") == 0) {
			cert_t c;
			memset(&c, 0xee, sizeof(c));
			memcpy(c.cert_chain, pem, sizeof(pem) - 1);
			c.cert_chain_size = sizeof(pem) - 1;
			if (!asked("nocert") || i != 1) ((cert_fn)f)(&u, 0, c, data);
		} else {
			return -3;
		}
	}
	return 0;
}
