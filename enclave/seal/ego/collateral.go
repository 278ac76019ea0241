package main

import (
	"context"
	"fmt"
	"time"

	"cocoon/enclave/seal/sgx"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
)

// fetchTimeout bounds the fetching of one quote's collateral.
const fetchTimeout = 30 * time.Second

// collateralFrom fetches from Intel's service, or from a PCCS.
func collateralFrom(url string) (sgx.Collateral, error) {
	c, err := pcs.New(pcs.Options{BaseURL: url})
	if err != nil {
		return nil, fmt.Errorf("reading the PCCS's address: %w", err)
	}
	return func(quote []byte) (*collateral.Raw, error) {
		req, err := pcs.RequestOf(quote, nil, false, nil)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		set, err := c.Set(ctx, req)
		if err != nil {
			return nil, err
		}
		return set.Raw(), nil
	}, nil
}
