module cocoon/enclave/seal/ego

go 1.26.8

require (
	cocoon v0.0.0
	github.com/edgelesssys/ego v1.7.2
)

replace cocoon => ../../..
