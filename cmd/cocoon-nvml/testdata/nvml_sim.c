/* A simulation of the part of libnvidia-ml.so.1 that cocoon-nvml calls: two
 * GPUs whose reports are made up. Tests compile it to hold the structures and
 * calling convention against a C compiler; nothing else uses it. COCOON_SIM
 * holds words that make it fail. */
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct sim { int index; } *nvmlDevice_t;
static struct sim sims[2] = {{0}, {1}};

static int asked(const char *word) {
	const char *s = getenv("COCOON_SIM");
	return s && strstr(s, word);
}

nvmlReturn_t nvmlInit_v2(void) { return asked("mismatch") ? 18 : 0; }
nvmlReturn_t nvmlShutdown(void) { return 0; }
nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, "550.90.07", n); return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) { *n = asked("many") ? 17 : 2; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
	if (asked("lost") && i == 1) return 15;
	*d = &sims[i];
	return 0;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *s, unsigned n) {
	if (n < 6) return 2;
	strcpy(s, "GPU-0");
	s[4] += d->index;
	return 0;
}
nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t d, char *s, unsigned n) {
	(void)d;
	if (asked("unterminated")) { memset(s, 'x', n); return 0; }
	strncpy(s, "96.00.9F.00.01", n);
	return 0;
}

typedef struct { unsigned version, environment, ccFeature, devToolsMode, multiGpuMode; } settings_t;
#ifndef OLD
nvmlReturn_t nvmlSystemGetConfComputeSettings(settings_t *s) {
	if (s->version != (sizeof(*s) | (1u << 24))) return 25;
	s->environment = 2;
	s->ccFeature = !asked("ppcie");
	s->devToolsMode = asked("devtools");
	s->multiGpuMode = asked("ppcie");
	return 0;
}
#endif
typedef struct { unsigned environment, ccFeature, devToolsMode; } state_t;
nvmlReturn_t nvmlSystemGetConfComputeState(state_t *s) {
	s->environment = 2;
	s->ccFeature = 1;
	s->devToolsMode = 0;
	return 0;
}
static unsigned ready;
nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned *r) { *r = ready; return 0; }
nvmlReturn_t nvmlSystemSetConfComputeGpusReadyState(unsigned r) { ready = r; return asked("denied") ? 4 : 0; }

typedef struct {
	unsigned char clusterUuid[16];
	nvmlReturn_t status;
	unsigned cliqueId;
	unsigned char state;
} fabric_t;
nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t d, fabric_t *f) {
	if (asked("nofabric")) return 3;
	f->status = 0;
	f->state = d->index ? 2 : 3;
	return 0;
}

typedef struct {
	unsigned certChainSize, attestationCertChainSize;
	unsigned char certChain[0x1000], attestationCertChain[0x1400];
} cert_t;
static const char pem[] = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"
	"-----BEGIN CERTIFICATE-----\nBAUG\n-----END CERTIFICATE-----\n";
nvmlReturn_t nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t d, cert_t *c) {
	(void)d;
	memcpy(c->certChain, "another chain", 13);
	c->certChainSize = 13;
	memcpy(c->attestationCertChain, pem, sizeof(pem) - 1);
	c->attestationCertChainSize = asked("overflow") ? 0x1401 : sizeof(pem) - 1;
	return 0;
}

typedef struct {
	unsigned isCecAttestationReportPresent, attestationReportSize, cecAttestationReportSize;
	unsigned char nonce[0x20], attestationReport[0x2000], cecAttestationReport[0x1000];
} report_t;
nvmlReturn_t nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t d, report_t *r) {
	if (asked("timeout")) return 10;
	r->attestationReport[0] = 0x11 + d->index;
	memcpy(r->attestationReport + 1, r->nonce, sizeof(r->nonce));
	r->attestationReportSize = 1 + sizeof(r->nonce);
	return 0;
}
