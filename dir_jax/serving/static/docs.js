// Swagger UI, from this server alone.
"use strict";
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  presets: [SwaggerUIBundle.presets.apis],
  defaultModelsExpandDepth: 0,
  deepLinking: true,
  validatorUrl: null,
});
