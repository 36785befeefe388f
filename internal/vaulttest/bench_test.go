package vaulttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// BenchmarkSign measures what a Vault on this machine can do, with one caller
// and with eight.
func BenchmarkSign(b *testing.B) {
	s := Start(b)
	s.Transit(b, "k", "ecdsa-p256")
	item := map[string]any{"input": "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="}
	one := map[string]any{"prehashed": true, "marshaling_algorithm": "jws", "input": item["input"]}
	batch := map[string]any{"prehashed": true, "marshaling_algorithm": "jws", "batch_input": repeat(item, 64)}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	b.Cleanup(client.CloseIdleConnections)
	for _, callers := range []int{1, 8} {
		for name, body := range map[string]map[string]any{"single": one, "batch64": batch} {
			b.Run(fmt.Sprint(name, "/callers=", callers), func(b *testing.B) {
				calls := make(chan struct{})
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						for range calls {
							if err := post(client, s.Addr+"/v1/transit/sign/k", s.RootToken, body); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for b.Loop() {
					calls <- struct{}{}
				}
				close(calls)
				all.Wait()
			})
		}
	}
}

func repeat(item any, n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = item
	}
	return out
}

func post(c *http.Client, url, token string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest("POST", url, strings.NewReader(string(content)))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", token)
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != 200 {
		return fmt.Errorf("%s: %v, %v", res.Status, answer, err)
	}
	return nil
}
