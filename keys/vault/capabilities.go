package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
)

// power is what a token may need to do on a path of a key; whatever else it may
// do there is too much.
type power struct {
	path  string
	needs []string
}

// powers are the paths of a key. On those of the second part a signer has no
// business at all.
func (k *Key) powers() []power {
	m, n := k.mount+"/", k.name
	return []power{
		{m + "keys/" + n, []string{"read"}},
		{m + "keys/" + n + "/rotate", []string{"update"}},
		{m + "sign/" + n, []string{"update"}},
		{m + "encrypt/" + n, []string{"update"}}, // create would make a key that is missing
		{m + "decrypt/" + n, []string{"update"}},

		{m + "keys/" + n + "/config", nil},
		{m + "keys/" + n + "/trim", nil},
		{m + "keys/" + n + "/import", nil},
		{m + "keys/" + n + "/import_version", nil},
		{m + "keys/" + n + "/soft-delete", nil},
		{m + "keys/" + n + "/soft-delete-restore", nil},
		{m + "export/signing-key/" + n, nil},
		{m + "export/signing-key/" + n + "/latest", nil},
		{m + "export/encryption-key/" + n, nil},
		{m + "export/encryption-key/" + n + "/latest", nil},
		{m + "export/hmac-key/" + n, nil},
		{m + "export/hmac-key/" + n + "/latest", nil},
		{m + "byok-export/" + n + "/" + n, nil},
		{m + "backup/" + n, nil},
		{m + "restore", nil},
		{m + "restore/" + n, nil},
	}
}

// Capabilities tells what the token may do with this key beyond what a signer
// needs, such as "delete transit/keys/sts": it should be empty. What a signer
// needs is to read the key, to rotate it, to sign, and with a wrapping key to
// encrypt and decrypt.
func (k *Key) Capabilities(ctx context.Context) (broader []string, err error) {
	powers := k.powers()
	ask := struct {
		Paths []string `json:"paths"`
	}{}
	for _, p := range powers {
		ask.Paths = append(ask.Paths, p.path)
	}
	sent, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	body, err := k.call(ctx, "asking what the token may do with", request{method: http.MethodPost, path: "sys/capabilities-self", body: sent, repeatable: true})
	if err != nil {
		return nil, err
	}
	var may map[string]json.RawMessage
	if err := decode(body, &may); err != nil {
		return nil, about(err, "asking what the token may do with %s", k)
	}
	for _, p := range powers {
		var has []string
		if json.Unmarshal(may[p.path], &has) != nil {
			return nil, newError(Garbage, "asking what the token may do with %s: the answer does not speak of %s", k, p.path)
		}
		for _, capability := range has {
			if capability != "deny" && !slices.Contains(p.needs, capability) {
				broader = append(broader, capability+" "+p.path)
			}
		}
	}
	return broader, nil
}
