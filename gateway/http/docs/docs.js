SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#specification",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
